"""The settings of a search that say how a trial is trained and scored."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from autoprune.errors import AutoPruneError
from autoprune.search.options import at_least_one, flag, within_reason


class MeasuringSettings(BaseModel):
    """What a trial trains on and is scored on, and what is confirmed."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    max_recovery_samples: int = Field(
        800, description="Most samples that the recovery of one trial may see, passes included."
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

    @field_validator("confirm_seeds", "confirm_points")
    @classmethod
    def _repeats(cls, value: int, info: Any) -> int:
        return at_least_one(within_reason(value, info.field_name), info.field_name)

    @field_validator("max_recovery_samples", "search_samples", "confirm_samples")
    @classmethod
    def _samples(cls, value: int | None, info: Any) -> int | None:
        return at_least_one(value, info.field_name)

    @field_validator("data_fraction", "rung_share")
    @classmethod
    def _share(cls, value: float | None, info: Any) -> float | None:
        if value is not None and not 0 < value <= 1:
            what = "images" if info.field_name == "rung_share" else "data"
            raise AutoPruneError(
                f"{flag(info.field_name)} {value:g} lies outside (0, 1]: 1 is all of the {what}"
            )
        return value
