"""One confirmed point of the front."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, FiniteFloat

from autoprune.tracking.records.base import Figure, Record, trial_name
from autoprune.tracking.records.timing import Timing


class Retention(Record):
    """Mean over seeds with its 95 % interval (bootstrap over images and seeds)."""

    mean: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    seeds: int = Field(ge=1)


class FrontPoint(Record):
    """One confirmed configuration: a member of the front, or a baseline beside it."""

    trial: int
    params: int
    fraction: FiniteFloat
    axis: str
    recovery: str
    data_fraction: FiniteFloat
    backbone_removed: FiniteFloat
    retention: Retention
    retention_raw: Figure = None
    scores: dict[str, FiniteFloat] = {}
    precision: str = ""
    bytes: int | None = None
    bytes_fraction: Figure = None
    memory: int | None = None
    memory_fraction: Figure = None
    latency: Figure = None
    latency_fraction: Figure = None
    latency_kind: str = ""
    measured: Timing | None = None  # of a token on this machine, where the search was for that
    tied_with: tuple[int, ...] = ()  # trials whose paired interval of the difference holds 0
    tied_smaller: tuple[int, ...] = ()  # those of them that are smaller
    dominated: bool = False  # another point is no larger, and better beyond the paired interval
    behind: bool = False  # not dominated, but a point that is no larger has a mean no lower: a tie
    baseline: str | None = None
    capabilities: dict[str, FiniteFloat] = {}  # of the dense model's, chance-corrected, a group
    missed: dict[str, FiniteFloat] = {}  # floor -> by how much its mean is below

    @property
    def shortfall(self) -> str:
        """Which floors it is below, in words: `below pope by 0.040`; empty where it meets them."""
        return "; ".join(f"below {name} by {by:.3f}" for name, by in self.missed.items())

    @property
    def name(self) -> str:
        """Name of the point's trial: `trial-0007`."""
        return trial_name(self.trial)

    @property
    def measured_latency(self) -> float | None:
        """Seconds a token as measured, where they were."""
        return None if self.measured is None else self.measured.seconds

    @property
    def tie(self) -> str:
        """What ties with it, in words: `tied with 12, which is smaller`; the smaller ones first.

        Empty where nothing does.
        """
        parts = []
        if smaller := self.tied_smaller:
            are = "is" if len(smaller) == 1 else "are"
            parts.append(f"tied with {_listed(smaller)}, which {are} smaller")
        if rest := [trial for trial in self.tied_with if trial not in self.tied_smaller]:
            parts.append(f"tied with {_listed(rest)}")
        return "; ".join(parts)


def _listed(trials: Iterable[int]) -> str:
    *most, last = map(str, trials)
    return f"{', '.join(most)} and {last}" if most else last
