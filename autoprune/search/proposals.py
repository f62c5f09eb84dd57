"""The settings of a search that say which trials it tries, and when it has tried enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.search.goal import SPACE_OF
from autoprune.search.knobs.grid import cells
from autoprune.search.knobs.space import load_space
from autoprune.search.options import above_zero, at_least_one, within_reason
from autoprune.search.sampling.samplers import SAMPLERS


class ProposalSettings(BaseModel):
    """What trials are proposed, and how many; part of ``SearchSettings``."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

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
    warm_baselines: bool = Field(
        True, description="Try the study's configurations and other known ones first."
    )
    warm_start: tuple[str, ...] = Field(
        (), description="Learn from this earlier search on the same model; may be repeated."
    )
    early_stopping: bool = Field(True, description="Stop trials that others dominate.")

    @field_validator("trials")
    @classmethod
    def _trials(cls, value: int) -> int:
        return at_least_one(within_reason(value, "trials"), "trials")

    @field_validator("max_hours", "patience")
    @classmethod
    def _limits(cls, value: float | None, info: Any) -> float | None:
        return above_zero(value, info.field_name, "leave it out for no such limit")

    @field_validator("seed")
    @classmethod
    def _seed(cls, value: int) -> int:
        if not 0 <= value < 2**31:
            raise AutoPruneError(f"--seed {value} lies outside 0 to {2**31 - 1}")
        return value

    @field_validator("refine")
    @classmethod
    def _refined_share(cls, value: float) -> float:
        if not 0 <= value < 1:
            raise AutoPruneError(f"--refine {value:g} lies outside [0, 1): 0 switches it off")
        return value

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
