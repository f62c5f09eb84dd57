"""A search's options as keywords: those of ``autoprune search``, by their names without dashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.search.options import flag, objective_settings
from autoprune.search.settings import SearchSettings, make_settings

Names = str | Sequence[str] | Mapping[str, object]
"""One, several, or several with commas between them."""


class SearchOptions(TypedDict, total=False):
    """Options of :func:`autoprune.search`; ``autoprune search --help`` explains each.

    What is left out has the default of the command line.
    """

    name: str
    model: str | Path
    budget: Names
    min_size: str
    quantize: Names
    objective: Names
    tasks: Names
    task_data: Names
    capability: Names
    floor: Names
    data: Names
    images: str | Path
    columns: Names
    max_length: int
    device: str | Path
    cost_model: str
    context: int
    images_per_prompt: int
    image_tokens: int
    deployable: str
    multiple: int
    space: str | Path
    sampler: str
    trials: int
    refine: float
    max_hours: float
    patience: float
    seed: int
    workers: int
    cpus_per_trial: float
    gpus_per_trial: float
    ray_address: str
    tracking_uri: str
    storage: str
    home: str | Path
    max_recovery_samples: int
    cache_limit: str
    data_fraction: float
    search_samples: int
    rung_share: float
    confirm_samples: int
    confirm_seeds: int
    confirm_points: int
    baselines: bool
    warm_start: Names
    early_stopping: bool
    keep: bool


def fields() -> dict[str, str]:
    """Return the field of ``SearchSettings`` that each option sets, by the option's name."""
    return {
        flag(field).removeprefix("--").replace("-", "_"): field
        for field in SearchSettings.model_fields
        if field not in ("data_identity", "timed")  # found in the data, and by the objective
    }


def settings_of(options: Mapping[str, Any]) -> SearchSettings:
    """Return the settings that options stand for.

    Raises:
        AutoPruneError: for an unknown option, or a value that the command would refuse.
    """
    known = fields()
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            raise AutoPruneError(f"unknown option {name!r}{did_you_mean(name, known)}")
        field = known[name]
        if field == "objective":
            values |= objective_settings(names_of(value))
            continue
        if isinstance(SearchSettings.model_fields[field].default, tuple):
            value = names_of(value)
        elif isinstance(value, Path) and field != "home":
            value = str(value)
        values[field] = value
    return make_settings(values)


def names_of(value: Names) -> tuple[str, ...]:
    """Return names one by one; a mapping's as ``NAME=VALUE``."""
    given: list[object]
    if isinstance(value, Mapping):
        given = [f"{name}={what}" for name, what in value.items()]
    else:
        alone = isinstance(value, (str, Path)) or not isinstance(value, Iterable)
        given = [value] if alone else list(value)
    return tuple(part.strip() for item in given for part in str(item).split(",") if part.strip())
