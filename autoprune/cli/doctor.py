"""``autoprune doctor``: what this machine is, what is wrong with it, what it can search."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli.options import Gpus, Home, Json, example, home_dir, setting

if TYPE_CHECKING:
    from rich.console import Console

    from autoprune.doctor.checks import Check
    from autoprune.doctor.hour import Fits

EXAMPLE = example("autoprune doctor", "autoprune doctor --model my-vlm --budget 3B-params")

HOUR = 3600.0
PROBLEM = 3
"""Exit code where a search could not run."""


def doctor(
    model: Annotated[str | None, setting("model", metavar="MODEL")] = None,
    budgets: Annotated[list[str] | None, setting("budgets", metavar="SIZE")] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Trials that run at once; by default what cores and memory are for."),
    ] = None,
    gpus: Gpus = 0.0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Look at versions, devices, memory and disk, and say what can be searched in an hour.

    Each problem comes with its mend. Nothing is written. Exit code 3: a search could not run.
    """
    from autoprune.cli.output import console, json_stdout, print_json
    from autoprune.doctor.checks import Patient, examine
    from autoprune.doctor.hour import fits, forecast_of
    from autoprune.doctor.machine import this_machine
    from autoprune.doctor.workers import suited_workers
    from autoprune.search.settings import make_settings

    place = home_dir(home)
    out = console(as_json)
    with json_stdout(as_json):
        machine = this_machine(place)
        checks = examine(Patient(machine, place))
        wrong = [check for check in checks if check.state == "problem"]
        hour = None
        if not wrong:
            given: dict[str, Any] = {"home": place, "gpus_per_trial": min(gpus, 1.0)}
            given |= {"model": model} if model else {}
            given |= {"budgets": tuple(budgets)} if budgets else {}
            settings = make_settings(given)
            count = suited_workers(settings, machine, gpus) if workers is None else workers
            settings = make_settings({**given, "workers": count})
            hour = fits(settings, HOUR, forecast_of)
        asked = [f"--model {model}"] * bool(model)
        asked += [f"--budget {size}" for size in budgets or ()]
        asked += [f"--gpus-per-trial {min(gpus, 1.0):g}"] * bool(gpus)
        _print(out, checks, hour, model or "the embedded model", asked)
    if as_json:
        print_json(
            {
                "machine": asdict(machine),
                "checks": [asdict(check) for check in checks],
                "hour": None if hour is None else asdict(hour),
            }
        )
    if wrong:
        raise typer.Exit(PROBLEM)


def _print(
    out: Console, checks: list[Check], hour: Fits | None, model: str, asked: list[str]
) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    marks = {"ok": "ok", "note": "note", "problem": "PROBLEM"}
    for check in checks:
        table.add_row(marks[check.state], check.name, check.found)
        if check.mend:
            table.add_row("", "", f"-> {check.mend}")
    out.print(table)
    for line in _said(hour, model, asked):
        out.print(line)


def _said(hour: Fits | None, model: str, asked: list[str]) -> list[str]:
    from autoprune.cli.output import duration
    from autoprune.doctor.hour import COUNTS

    if hour is None:
        return ["What can be searched here is said once the problems are mended."]
    workers = f"{hour.workers} worker{'s' if hour.workers > 1 else ''}"
    parts = (
        f"{duration(hour.prepare)} to prepare, {duration(hour.trial)} a trial, "
        f"{duration(hour.confirm)} to confirm"
    )
    whole = f"a search of {COUNTS[0]} trials takes about {duration(hour.default)} ({parts})"
    if hour.trials < 1:
        return [f"In an hour this machine cannot search {model}: with {workers}, {whole}."]
    counts = [f"--workers {hour.workers}", f"--trials {hour.trials}"]
    return [
        f"In an hour this machine tries about {hour.trials:,} smaller versions of {model} with "
        f"{workers}; {whole}.",
        " ".join(["  autoprune search", *asked, *counts]),
    ]
