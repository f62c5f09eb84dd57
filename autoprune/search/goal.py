"""The settings of a search that say what is to come out of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.search.options import at_least_one, whole_path

SPACE_OF = {"any": "hybrid", "stock": "stock"}
"""The space that each class of deployability is searched in, unless another is named."""

QUANTIZE = {"none": "float32", "int8": "int8", "int4": "int4"}
"""What ``--quantize`` takes, and the precision of the finished weights that it means."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class GoalSettings(BaseModel):
    """What is to come out, and by which tasks it is judged; part of ``SearchSettings``."""

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

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if value and not _NAME.fullmatch(value):
            raise AutoPruneError(
                f"name {value!r} cannot name a directory: use letters, digits, '.', '_' and '-'"
            )
        return value

    @field_validator("multiple")
    @classmethod
    def _multiple(cls, value: int | None) -> int | None:
        return at_least_one(value, "multiple")

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

    @field_validator("deployable")
    @classmethod
    def _known_class(cls, value: str) -> str:
        if value not in SPACE_OF:
            raise AutoPruneError(f"unknown --deployable {value!r}{did_you_mean(value, SPACE_OF)}")
        return value

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions that the finished weights may have, the largest first."""
        return tuple(QUANTIZE[name] for name in self.quantize)
