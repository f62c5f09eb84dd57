"""The settings of a search that say what its models run on, and what they may take there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.plugins import COST_MODELS, plugin_names
from autoprune.search.options import flag
from autoprune.tracking.records.costs import objective_of

ROOFLINE = "roofline"


class RunningSettings(BaseModel):
    """What memory and latency are said for; part of ``SearchSettings``."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    objective: Literal["params", "bytes", "memory"] = Field(
        "params",
        description="Size that the front is drawn over: params, bytes (always where the backbone "
        "is quantised) or memory; latency beside it, as in bytes,latency, is a third objective.",
    )
    timed: bool = Field(
        False, description="Whether latency is an objective; said as --objective latency."
    )
    device: str | None = Field(
        None,
        description="Device to plan for (see 'autoprune devices'), an entry's file, or here, as "
        "'autoprune profile' measured it: the front is timed on it at the end. Its memory is a "
        "budget unless one is given.",
    )
    context: int | None = Field(
        None,
        description="Tokens of text, prompt and answer, that memory and latency are said for; by "
        "default 1,024, or what the model has positions for.",
    )
    images_per_prompt: int | None = Field(
        None, description="Images beside that text; by default 1."
    )
    image_tokens: int | None = Field(
        None,
        description="Tokens that an image becomes; by default those of 448 by 448 pixels, cut into "
        "tiles as the model's processor does.",
    )
    cost_model: str = Field(
        ROOFLINE,
        description="What says the latency of a token on --device: roofline, or one that another "
        "package adds.",
    )

    @field_validator("device")
    @classmethod
    def _entry(cls, value: str | None) -> str | None:
        """Write an entry's file with its whole path: a search is resumed from anywhere."""
        path = value is not None and (value.endswith(".json") or "/" in value)
        return str(Path(value).absolute()) if value and path else value

    @field_validator("images_per_prompt")
    @classmethod
    def _none_or_more(cls, value: int | None) -> int | None:
        if value is not None and value < 0:
            raise AutoPruneError(f"--images-per-prompt {value} is below 0: give 0 or more")
        return value

    @field_validator("context", "image_tokens")
    @classmethod
    def _one_or_none(cls, value: int | None, info: Any) -> int | None:
        if value is not None and value < 1:
            raise AutoPruneError(f"{flag(info.field_name)} {value} is below 1: give 1 or more")
        return value

    @field_validator("cost_model")
    @classmethod
    def _known_cost_model(cls, value: str) -> str:
        known = (ROOFLINE, *plugin_names(COST_MODELS))
        if value not in known:
            raise AutoPruneError(f"unknown cost model {value!r}{did_you_mean(value, known)}")
        return value

    @model_validator(mode="after")
    def _timed_somewhere(self) -> Self:
        if self.timed and self.device is None:
            raise AutoPruneError(
                "--objective latency needs a --device to be said for: name one of 'autoprune "
                "devices', or run 'autoprune profile' and say here"
            )
        return self

    @property
    def counted(self) -> str:
        """What the front is drawn over: the unit of sizes, and latency behind it if it counts."""
        return objective_of(self.objective, self.timed)
