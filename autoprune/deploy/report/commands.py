"""The lines that make a search and what came of it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from autoprune.deploy.report.model import Command
from autoprune.search.goal import SPACE_OF
from autoprune.search.options import flag
from autoprune.search.records.store import SearchStore
from autoprune.search.sampling.samplers import SAMPLERS
from autoprune.search.settings import SearchSettings, make_settings
from autoprune.tracking.records.summary import SearchSummary

HERE = frozenset({"tracking_uri", "storage", "ray_address"})
"""Settings of this machine and its servers: a page that is sent around does not hold them."""

UNSAID = HERE | {"name", "home", "data_identity", "timed"}
"""What a command does not say besides: the name, as it is typed, holds the first two, an identity
is found when data is read, and latency is said with the objective."""


def search_command(settings: SearchSettings, typed: str) -> str:
    """Return the line that starts a search of these settings.

    Args:
        settings: of the search.
        typed: its name, with ``--home`` where it lies elsewhere (``SearchStore.typed``).
    """
    return " ".join(["autoprune search", *options(settings), "--name", typed])


def options(settings: SearchSettings) -> list[str]:
    """Return the options that are not at their default, as they are typed.

    The budget is always said.
    """
    usual = _usual(settings)
    parts = []
    for field in SearchSettings.model_fields:
        value = getattr(settings, field)
        if field == "objective" and settings.timed:
            value = f"{value},latency"
        if field in UNSAID or (value == usual[field] and field != "budgets"):
            continue
        if isinstance(value, bool):
            parts.append(flag(field) if value else flag(field).replace("--", "--no-", 1))
            continue
        several = value if isinstance(value, tuple) else (value,)
        for one in several:
            text = repr(one) if isinstance(one, float) else str(one)
            parts += [flag(field), shlex.quote(text)]
    return parts


def _usual(settings: SearchSettings) -> Mapping[str, Any]:
    """Return the settings that a search has which is told only what decides others."""
    deciding: dict[str, Any] = {"name": settings.name, "deployable": settings.deployable}
    if SAMPLERS[settings.sampler].walks:
        deciding |= {"sampler": settings.sampler, "space": settings.space}
    if settings.quantize != SearchSettings.model_fields["quantize"].default:
        deciding["quantize"] = settings.quantize
    usual = make_settings(deciding)
    plain = {field: info.default for field, info in SearchSettings.model_fields.items()}
    said = {field: getattr(usual, field) for field in ("trials", "refine", "objective")}
    return {**plain, **said, "space": SPACE_OF[settings.deployable]}


def commands_of(
    settings: SearchSettings, store: SearchStore, summary: SearchSummary | None, state: str
) -> tuple[Command, ...]:
    """Return what to type: to search again, to see it, and to take a point away."""
    typed = store.typed
    lines = [("Search again from the start", search_command(settings, typed))]
    if state != "finished":
        lines.append(("Go on with this search", f"autoprune search --resume {typed}"))
        lines.append(("This page, brought up to date", f"autoprune report {typed}"))
    else:
        lines.append(("The front in a terminal", f"autoprune front {typed}"))
        lines.append(
            ("The best point under constraints", f"autoprune pick {typed} --min-retention 0.9")
        )
    lines.append(("All trials in the browser (MLflow)", f"autoprune ui {typed}"))
    for point in summary.front if summary else ():
        what = f"Take trial {point.trial} away ({point.fraction:.1%} of the model)"
        lines.append((what, export_command(store, point.trial)))
    return tuple(Command(what=what, line=line) for what, line in lines)


def export_command(store: SearchStore, trial: int) -> str:
    """Return the line that writes a trial as a checkpoint; without kept weights it trains it."""
    kept = (store.directory / "kept" / f"{trial:04d}" / "weights.npz").is_file()
    name = store.typed.replace(store.name, f"{store.name}:{trial}", 1)
    return f"autoprune export {name}{'' if kept else ' --rebuild'} -o smaller-model"
