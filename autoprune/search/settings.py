"""What a search is asked to do; checked before anything starts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.identity import content_hash
from autoprune.search.knobs.grid import cells
from autoprune.search.knobs.space import load_space
from autoprune.search.options import flag, parse_bytes, problem_line, whole_path
from autoprune.search.own_data import DataSettings
from autoprune.search.running import RunningSettings
from autoprune.search.sampling.samplers import SAMPLERS

FREE = frozenset(
    {
        "name",
        "home",
        "trials",
        "max_hours",
        "patience",
        "workers",
        "cpus_per_trial",
        "gpus_per_trial",
        "ray_address",
        "tracking_uri",
        "cache_limit",
        "keep",
        "data",
        "images",
    }
)
"""Settings that may change when a search is resumed: they decide neither what is searched
nor how a trial is scored. Data may lie elsewhere by then; its content counts, see
``data_identity``."""

SPACE_OF = {"any": "hybrid", "stock": "stock"}
"""The space that each class of deployability is searched in, unless another is named."""

LATER = frozenset(
    {
        "deployable",
        "multiple",
        "quantize",
        "objective",
        "timed",
        "device",
        "context",
        "images_per_prompt",
        "image_tokens",
        "cost_model",
        "refine",
        "rung_share",
        "warm_start",
        "warm_baselines",
        "task_data",
        "capabilities",
        "floors",
        "columns",
        "max_length",
        "data_identity",
    }
)
"""Settings that searches of earlier versions do not know. At its default such a setting is not
part of a search's identity, so that those searches can be resumed."""

QUANTIZE = {"none": "float32", "int8": "int8", "int4": "int4"}
"""What ``--quantize`` takes, and the precision of the finished weights that it means."""

MOST = 100_000
"""Of what is counted in a search: with more, even the forecast would take hours."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class SearchSettings(DataSettings, RunningSettings):
    """Every setting of a search. Frozen; unknown fields are refused.

    Use :func:`make_settings`, which turns a wrong value into a line for the user.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    name: str = Field("", description="Name of the search; by default one is made of its settings.")
    model: str = Field(
        "embedded", description="The embedded model, a checkpoint directory, or a hub name."
    )
    budgets: tuple[str, ...] = Field(
        ("60%",),
        description="Upper bound on the whole model: 60%, 850M-params, 3GiB-bytes, 6GiB-memory "
        "(weights, cache and activations) or 40ms-latency (a token, on --device); may be "
        "repeated, and all hold.",
        min_length=1,
    )
    min_size: str | None = Field(
        None, description="Smallest size to try, as --budget; by default 0.6 of the budget."
    )
    quantize: tuple[str, ...] = Field(
        ("none",),
        description="Precision of the finished backbone: none, int8, int4; several are searched.",
    )
    tasks: tuple[str, ...] = Field(
        (),
        description="Tasks to score on, by default the model's own: a name of lmms-eval's, or a "
        "task's YAML file, each followed by :METRIC where another metric is to count.",
    )
    task_data: tuple[str, ...] = Field(
        (),
        description="A copy of a task's documents on this machine, TASK=DIR; may be repeated.",
    )
    floors: tuple[str, ...] = Field(
        (),
        description="Share of the dense model's ability on a task or a capability that has to "
        "stay, NAME=SHARE such as pope=0.9; may be repeated.",
    )
    capabilities: tuple[str, ...] = Field(
        (),
        description="What a task asks for, TASK=WORD, beside what is known; may be repeated.",
    )
    deployable: str = Field(
        "any",
        description="any: each layer has its own shape, and a checkpoint brings its loading code; "
        "stock: whole layers and equal widths, which plain transformers loads.",
    )
    multiple: int | None = Field(
        None,
        description="MLP channels are kept in multiples of this; by default 64 where a layer has "
        "1,024 or more, else 1.",
    )
    space: str = Field(
        "",
        description="Knob space: a name (see 'autoprune spaces') or file; by default hybrid, or "
        "stock for --deployable stock.",
    )
    sampler: str = Field("tpe", description="What proposes trials: tpe, gp, nsga2, random or grid.")
    trials: int = Field(
        24, description="Number of trials in all; by default of grid, every configuration."
    )
    refine: float = Field(
        0.25,
        description="Share of the trials, the last ones, that start from the front's members; "
        "0 leaves all to the sampler.",
    )
    max_hours: float | None = Field(None, description="Launch no trial after this many hours.")
    patience: float | None = Field(
        None,
        description="Sample no more once another hour is expected to add less than this many "
        "points (hundredths) of hypervolume; it needs ten trials of the sampler to tell.",
    )
    seed: int = Field(0, description="Seed of everything that is drawn.")
    workers: int = Field(2, description="Trials that run at once.")
    cpus_per_trial: float = Field(1.0, description="CPU cores of a trial.")
    gpus_per_trial: float = Field(0.0, description="GPUs of a trial; a fraction shares one.")
    ray_address: str | None = Field(
        None,
        description="Join this Ray cluster ('auto' or host:port) and leave it running.",
    )
    tracking_uri: str | None = Field(
        None, description="MLflow server; by default sqlite in the home directory."
    )
    storage: str | None = Field(
        None, description="Optuna storage URL; by default a journal file in the search's directory."
    )
    home: Path = Field(Path("mlruns"), description="Directory that everything is written to.")
    max_recovery_samples: int = Field(
        800, description="Most samples that the recovery of one trial may see, passes included."
    )
    cache_limit: str = Field(
        "4GiB", description="Most memory for cached features, processed images and teacher states."
    )
    data_fraction: float | None = Field(
        None, description="Fix the share of unique recovery data; by default it is searched."
    )
    search_samples: int | None = Field(
        None,
        description="Images that trials are scored on, of each task that brings its own; by "
        "default 384.",
    )
    rung_share: float = Field(
        1 / 3,
        description="Share of these images that a trial is scored on before its recovery is done.",
    )
    confirm_samples: int | None = Field(
        None,
        description="Images that the front is confirmed on, of each task that brings its own; by "
        "default 512.",
    )
    confirm_seeds: int = Field(3, description="Times that each front member is run again.")
    confirm_points: int = Field(6, description="Most front members that are confirmed.")
    warm_baselines: bool = Field(
        True, description="Try the study's configurations and other known ones first."
    )
    warm_start: tuple[str, ...] = Field(
        (), description="Learn from this earlier search on the same model; may be repeated."
    )
    early_stopping: bool = Field(True, description="Stop trials that others dominate.")
    keep: bool = Field(True, description="Keep the recovered weights of the front's members.")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if value and not _NAME.fullmatch(value):
            raise AutoPruneError(
                f"name {value!r} cannot name a directory: use letters, digits, '.', '_' and '-'"
            )
        return value

    @field_validator("trials", "workers", "confirm_seeds", "confirm_points", "cpus_per_trial")
    @classmethod
    def _within_reason(cls, value: float, info: Any) -> float:
        if value > MOST:
            raise AutoPruneError(
                f"{flag(info.field_name)} {value:g} is above {MOST:,}: give less, which is still "
                "more than any machine can run"
            )
        return value

    @field_validator("trials", "workers", "max_recovery_samples", "confirm_seeds", "confirm_points")
    @classmethod
    def _at_least_one(cls, value: int, info: Any) -> int:
        if value < 1:
            raise AutoPruneError(f"{flag(info.field_name)} {value} is below 1: give 1 or more")
        return value

    @field_validator("search_samples", "confirm_samples", "multiple")
    @classmethod
    def _one_or_more(cls, value: int | None, info: Any) -> int | None:
        if value is not None and value < 1:
            raise AutoPruneError(f"{flag(info.field_name)} {value} is below 1: give 1 or more")
        return value

    @field_validator("seed")
    @classmethod
    def _seed(cls, value: int) -> int:
        if not 0 <= value < 2**31:
            raise AutoPruneError(f"--seed {value} lies outside 0 to {2**31 - 1}")
        return value

    @field_validator("max_hours", "patience", "cpus_per_trial")
    @classmethod
    def _positive(cls, value: float | None, info: Any) -> float | None:
        if value is not None and not (math.isfinite(value) and value > 0):
            limits = info.field_name in ("max_hours", "patience")
            mend = ": leave it out for no such limit" if limits else ": give a trial some CPU"
            raise AutoPruneError(f"{flag(info.field_name)} {value:g} is not a number above 0{mend}")
        return value

    @field_validator("gpus_per_trial")
    @classmethod
    def _gpus(cls, value: float) -> float:
        if not (math.isfinite(value) and value >= 0):
            raise AutoPruneError(
                f"--gpus-per-trial {value:g} is not a number from 0 up: 0 computes on the CPU"
            )
        if value > 1 and value != int(value):
            raise AutoPruneError(
                f"--gpus-per-trial {value:g} is neither a share of one GPU nor a whole number"
            )
        return value

    @field_validator("data_fraction", "rung_share")
    @classmethod
    def _share(cls, value: float | None, info: Any) -> float | None:
        if value is not None and not 0 < value <= 1:
            what = "images" if info.field_name == "rung_share" else "data"
            raise AutoPruneError(
                f"{flag(info.field_name)} {value:g} lies outside (0, 1]: 1 is all of the {what}"
            )
        return value

    @field_validator("refine")
    @classmethod
    def _refined_share(cls, value: float) -> float:
        if not 0 <= value < 1:
            raise AutoPruneError(f"--refine {value:g} lies outside [0, 1): 0 switches it off")
        return value

    @field_validator("quantize")
    @classmethod
    def _known_precisions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise AutoPruneError(f"--quantize names no precision: give {', '.join(QUANTIZE)}")
        for name in value:
            if name not in QUANTIZE:
                raise AutoPruneError(f"unknown precision {name!r}{did_you_mean(name, QUANTIZE)}")
        return tuple(name for name in QUANTIZE if name in value)

    @model_validator(mode="before")
    @classmethod
    def _bytes_where_quantised(cls, data: Any) -> Any:
        """Bits do not change the parameter count, so only bytes tell quantised points apart."""
        if not isinstance(data, Mapping) or not set(data.get("quantize", ())) - {"none"}:
            return data
        if data.get("objective", "bytes") not in ("bytes", "memory"):
            raise AutoPruneError(
                f"--objective {data['objective']} does not see what --quantize "
                f"{','.join(data['quantize'])} saves: leave --objective out, or say bytes or memory"
            )
        return {"objective": "bytes", **data}

    @model_validator(mode="before")
    @classmethod
    def _walk_all(cls, data: Any) -> Any:
        """A walk has as many trials as the space has cells, unless it is to end before."""
        if not isinstance(data, Mapping):
            return data
        sampler = SAMPLERS.get(data.get("sampler", ""))
        if sampler is None or not sampler.walks:
            return data
        if data.get("warm_start"):
            raise AutoPruneError(
                f"--warm-start {data['warm_start'][0]} tells a sampler, and --sampler "
                f"{data['sampler']} walks every configuration whatever it is told: leave one out"
            )
        if data.get("refine"):
            raise AutoPruneError(
                f"--refine {data['refine']:g} would leave out cells of a walk, which --sampler "
                f"{data['sampler']} is: leave one out"
            )
        usual = SPACE_OF.get(data.get("deployable", "any"), "hybrid")
        walk = {"trials": len(cells(load_space(data.get("space") or usual))), "refine": 0.0}
        return {**walk, **data}

    @field_validator("tasks")
    @classmethod
    def _task_files(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Write files with their whole path: a search is resumed from anywhere."""
        return tuple(whole_path(name) for name in value)

    @field_validator("task_data")
    @classmethod
    def _task_folders(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        pairs = (item.partition("=") for item in value)
        return tuple(
            f"{name}={Path(place).expanduser().absolute()}" if place else name
            for name, _, place in pairs
        )

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, value: str) -> str:
        if value not in SAMPLERS:
            raise AutoPruneError(f"unknown sampler {value!r}{did_you_mean(value, SAMPLERS)}")
        return value

    @field_validator("space")
    @classmethod
    def _known_space(cls, value: str) -> str:
        if value and not load_space(value).distributions():
            raise AutoPruneError(
                f"space {value} leaves no knob open, so all trials would be the same: give one "
                "a list or a range"
            )
        return value

    @field_validator("deployable")
    @classmethod
    def _known_class(cls, value: str) -> str:
        if value not in SPACE_OF:
            raise AutoPruneError(f"unknown --deployable {value!r}{did_you_mean(value, SPACE_OF)}")
        return value

    @field_validator("cache_limit")
    @classmethod
    def _size(cls, value: str) -> str:
        parse_bytes(value, "--cache-limit")
        return value

    @model_validator(mode="after")
    def _named(self) -> SearchSettings:
        if not self.space:
            object.__setattr__(self, "space", SPACE_OF[self.deployable])
        if not self.name:
            object.__setattr__(self, "name", f"search-{self.identity()[:6]}")
        return self

    def identity(self) -> str:
        """Return the content hash of what must agree when a search is resumed."""
        return content_hash(self.fixed())

    def fixed(self) -> dict[str, Any]:
        """Return the settings that must agree when a search is resumed, as plain JSON values.

        A space file counts by its content, not by its path.
        """
        values = self.model_dump(mode="json", exclude=set(FREE))
        for field in LATER:
            if values[field] == default_of(field):
                del values[field]
        values["space"] = load_space(self.space).model_dump(mode="json")
        return values

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions that the finished weights may have, the largest first."""
        return tuple(QUANTIZE[name] for name in self.quantize)

    @property
    def cache_bytes(self) -> int:
        """The ``cache_limit`` in bytes."""
        return parse_bytes(self.cache_limit, "--cache-limit")


def default_of(field: str) -> Any:
    """Return the default of a setting as a plain JSON value."""
    value = SearchSettings.model_fields[field].default
    return list(value) if isinstance(value, tuple) else value


def make_settings(values: Mapping[str, Any]) -> SearchSettings:
    """Check ``values`` and return the settings.

    Raises:
        AutoPruneError: one line that names the option, the value and what is allowed.
    """
    try:
        return SearchSettings(**values)
    except ValidationError as error:
        problem = error.errors()[0]
        field = str(problem["loc"][0]) if problem["loc"] else "settings"
        if problem["type"] == "extra_forbidden":
            known = did_you_mean(field, SearchSettings.model_fields)
            raise AutoPruneError(f"unknown setting {field!r}{known}") from None
        raise AutoPruneError(problem_line(flag(field), problem)) from None
