"""The settings of a search that say what it may take of this machine, and where it writes."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from autoprune.errors import AutoPruneError
from autoprune.search.options import above_zero, at_least_one, parse_bytes, within_reason


class MachineSettings(BaseModel):
    """What a search may take of a machine, and where it writes; part of ``SearchSettings``."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    workers: int = Field(2, description="Trials that run at once.")
    cpus_per_trial: float = Field(1.0, description="CPU cores of a trial.")
    gpus_per_trial: float = Field(0.0, description="GPUs of a trial; a fraction shares one.")
    cache_limit: str = Field(
        "4GiB", description="Most memory for cached features, processed images and teacher states."
    )
    ray_address: str | None = Field(
        None,
        description="Join this Ray cluster ('auto' or host:port) and leave it running.",
    )
    home: Path = Field(Path("mlruns"), description="Directory that everything is written to.")
    tracking_uri: str | None = Field(
        None, description="MLflow server; by default sqlite in the home directory."
    )
    storage: str | None = Field(
        None, description="Optuna storage URL; by default a journal file in the search's directory."
    )
    keep: bool = Field(True, description="Keep the recovered weights of the front's members.")

    @field_validator("workers")
    @classmethod
    def _workers(cls, value: int) -> int:
        return at_least_one(within_reason(value, "workers"), "workers")

    @field_validator("cpus_per_trial")
    @classmethod
    def _cpus(cls, value: float) -> float:
        return above_zero(
            within_reason(value, "cpus_per_trial"), "cpus_per_trial", "give a trial some CPU"
        )

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

    @field_validator("cache_limit")
    @classmethod
    def _size(cls, value: str) -> str:
        parse_bytes(value, "--cache-limit")
        return value

    @property
    def cache_bytes(self) -> int:
        """The ``cache_limit`` in bytes."""
        return parse_bytes(self.cache_limit, "--cache-limit")
