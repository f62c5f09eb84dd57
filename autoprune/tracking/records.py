"""The plain data of a search: one record a trial, one point of the front, one summary.

All are frozen, refuse unknown fields, and survive a round trip through JSON. Shares and
fractions are 0 to 1, a retention of 1.0 is the dense model's, sizes are counts of parameters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)

from autoprune.errors import AutoPruneError

SAMPLED = ("sampler", "slide")
"""Origins of trials that were proposed: drawn by the sampler, or a front member at another size."""

OWN = (*SAMPLED, "refine", "warm")
"""Origins of trials that a search found itself: proposed, moved a little from a front member, or
taken over from the front of an earlier search."""

START = "start-"
"""Begins the origins of AutoPrune's own starting points: tried first, and no baselines either."""

State = Literal["running", "complete", "stopped", "failed"]
Knob = bool | int | float | str | None
Objective = Literal["params", "bytes", "memory"]


def _finite_or_none(value: Any) -> Any:
    """A figure that is not a number is no figure: JSON has no NaN, and no plot can hold one."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite_or_none)]


class Record(BaseModel):
    """Base of every record: frozen, closed, JSON in and out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the record as JSON text."""
        return self.model_dump_json(indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a record.

        Raises:
            AutoPruneError: the text is not a record of this kind (names the first bad field).
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "text"
            raise AutoPruneError(
                f"{where} of this {cls.__name__} is not readable ({first['msg']})"
            ) from error


class KeepMap(Record):
    """How many units of each layer of the dense backbone a plan keeps.

    All four tuples have one entry a dense layer, in order. A sublayer that keeps nothing is 0;
    a dropped layer is 0 in both.
    """

    heads: tuple[int, ...]
    channels: tuple[int, ...]
    dense_heads: tuple[int, ...]
    dense_channels: tuple[int, ...]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        lengths = {
            len(part) for part in (self.heads, self.channels, self.dense_heads, self.dense_channels)
        }
        if len(lengths) != 1:
            raise ValueError("heads, channels and their dense counts need one entry a dense layer")
        return self

    @property
    def attention(self) -> tuple[float, ...]:
        """Share of the attention heads kept, a layer."""
        return _shares(self.heads, self.dense_heads)

    @property
    def mlp(self) -> tuple[float, ...]:
        """Share of the MLP channels kept, a layer."""
        return _shares(self.channels, self.dense_channels)

    @property
    def layers_kept(self) -> int:
        """Number of layers that keep anything."""
        return sum(1 for h, c in zip(self.heads, self.channels, strict=True) if h or c)


def _shares(kept: tuple[int, ...], dense: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(k / d if d else 0.0 for k, d in zip(kept, dense, strict=True))


class TrialRecord(Record):
    """One trial, as far as it has come.

    `scores`, `retention` and `retention_raw` are those of the last rung that was evaluated;
    only a `complete` trial has spent all of its recovery (`fidelity` 1.0).
    """

    trial: int = Field(ge=0)
    state: State
    reason: str = ""  # why it stopped or failed, in one line
    origin: str = "sampler"  # one of OWN, or the name of the baseline that was enqueued
    axis: str = ""  # width, depth, hybrid
    recovery: str = ""  # label such as "sft+hidden/full"
    data_fraction: Figure = None  # share of the unique recovery samples, (0, 1]
    knobs: dict[str, Knob] = {}
    parent: int | None = None  # the trial that a refined or slid one started from
    layout: dict[str, tuple[int, ...]] | None = None  # counts a layer, where knobs do not say them
    keep: KeepMap | None = None
    plan: str = ""  # identity of the pruning plan
    params: int | None = None
    fraction: Figure = None  # share of the whole model's parameters kept
    backbone_removed: Figure = None  # share of the backbone's parameters removed
    precision: str = ""  # of the weights at full fidelity: float32, bfloat16, int8, int4…
    bytes: int | None = None  # of the stored weights, in that precision
    bytes_fraction: Figure = None  # share of the dense model's in the precision it is worked with
    memory: int | None = None  # bytes while answering, at the search's prompt
    memory_fraction: Figure = None  # share of the dense model's, in the precision of its weights
    latency: Figure = None  # seconds a token on the search's device
    latency_fraction: Figure = None  # share of the dense model's
    latency_kind: str = ""  # modelled or measured
    rung: int = 0
    rung_values: tuple[Figure, ...] = ()  # a rung: minus the proxy's KL at 0, then retention
    fidelity: FiniteFloat = 0.0  # share of the recovery spent
    proxy_kl: Figure = None  # nats an answer token, to the dense model
    retention: Figure = None
    retention_raw: Figure = None
    scores: dict[str, FiniteFloat] = {}  # task -> score, 0..1
    missed: dict[str, FiniteFloat] = {}  # floor -> by how much it is below, at the last rung
    stage_seconds: dict[str, FiniteFloat] = {}
    flops: Figure = None
    seed: int = 0
    versions: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Name of the trial wherever it is shown: `trial-0007`."""
        return trial_name(self.trial)

    @property
    def violation(self) -> float:
        """By how much it is below the floors, summed; 0 where it meets them all."""
        return sum(self.missed.values())

    @property
    def given(self) -> dict[str, bool | int | float | str]:
        """The knobs that have a value."""
        return {name: value for name, value in self.knobs.items() if value is not None}

    @property
    def baseline(self) -> str | None:
        """Name of the baseline that it runs, or None for what the search found itself."""
        return None if self.origin in OWN or self.origin.startswith(START) else self.origin


def share_in(item: TrialRecord | FrontPoint, objective: str) -> float | None:
    """Return the share of the dense model that is kept, in the unit of ``objective``."""
    size, _ = split_objective(objective)
    return {"bytes": item.bytes_fraction, "memory": item.memory_fraction}.get(size, item.fraction)


def size_in(item: TrialRecord | FrontPoint | Dense | Budget, objective: str) -> int:
    """Return a size in the unit of ``objective``; 0 where it is not known."""
    size, _ = split_objective(objective)
    return {"bytes": item.bytes, "memory": item.memory}.get(size, item.params) or 0


TIMED = "+latency"
"""Behind a unit of size: latency counts beside it."""


def split_objective(objective: str) -> tuple[str, bool]:
    """Return the unit of sizes that an objective means, and whether latency counts beside it."""
    size = objective.removesuffix(TIMED)
    return size, size != objective


def costs_in(item: TrialRecord | FrontPoint, objective: str) -> tuple[float, ...] | None:
    """Return what an objective wants small: the share of size kept, and of latency where it counts.

    None where one of them is not known.
    """
    costs = [share_in(item, objective)]
    if split_objective(objective)[1]:
        costs.append(item.latency_fraction)
    known = tuple(cost for cost in costs if cost is not None)
    return known if len(known) == len(costs) else None


def point_of(record: TrialRecord, objective: str) -> tuple[float, ...]:
    """Return a trial as a point: costs, of which an unknown one counts 1, and its retention."""
    unknown = (1.0, 1.0) if split_objective(objective)[1] else (1.0,)
    return (*(costs_in(record, objective) or unknown), record.retention or 0.0)


def trial_name(trial: int) -> str:
    """Return `trial-0007` for 7."""
    return f"trial-{trial:04d}"


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


class Dense(Record):
    """The model before pruning."""

    params: int
    bytes: int | None = None
    memory: int | None = None  # while it answers, at the search's prompt
    latency: Figure = None  # seconds a token on the search's device
    precision: str = ""  # that it is worked with in, and its bytes are counted in
    scores: dict[str, FiniteFloat] = {}


class Budget(Record):
    """The bound on the whole model, as typed and as a number of parameters."""

    text: str  # "60%", "3B-params", "3GiB-bytes"
    params: int
    fraction: FiniteFloat
    bytes: int | None = None  # where bytes are the objective
    memory: int | None = None  # most bytes while answering, where those are bounded
    latency: Figure = None  # most seconds a token, where that is bounded


class Running(Record):
    """The prompt and the device that memory and latency are said for."""

    context: int  # tokens of text
    images: int
    image_tokens: int  # of one
    device: str = ""
    latency_kind: str = ""  # modelled or measured
    bounds: tuple[str, ...] = ()  # what candidates keep to beside their size

    @property
    def said(self) -> str:
        """Both in words."""
        images = "1 image" if self.images == 1 else f"{self.images} images"
        what = f"{self.context:,} tokens of text"
        if self.image_tokens:
            what += f" and {images} of {self.image_tokens:,} tokens"
        return f"{what} on {self.device}, {self.latency_kind}" if self.device else what


class RungRecord(Record):
    """How well a rung below full fidelity ranked trials as their end did, within bins of size.

    Measured on trials that nothing could stop: baselines, the exempt share of the others, and all
    where early stopping is off.
    """

    rung: int
    share: FiniteFloat  # of the recovery spent there
    trials: int = 0  # that it is measured on
    bins: int = 0  # of size
    correlation: Figure = None  # Spearman's, pooled over bins; None: too few trials to say
    low: Figure = None  # 95 % interval, Fisher's z
    high: Figure = None
    stops: FiniteFloat = 0.0  # share that it stopped at last; while the above is None, as it began


class StageRecord(Record):
    """A stage of a search: what it was forecast to take before launch, and what it took."""

    stage: str  # prepare, trials, confirm
    forecast: Figure = None  # seconds
    seconds: FiniteFloat  # over all sessions


class SearchSummary(Record):
    """A finished search, or one so far. Its JSON is what `front --json` prints."""

    dense: Dense
    budget: Budget
    points: tuple[FrontPoint, ...] = ()  # confirmed, by size; dominated and tied ones are marked
    name: str = ""
    objective: Objective = "params"  # what a size is, in the front and its hypervolume
    timed: bool = False  # whether latency is an objective beside it
    running: Running | None = None  # what memory and latency are said for
    baselines: tuple[FrontPoint, ...] = ()
    hypervolume: Figure = None  # under the means of the confirmed points, reference (1, 0)
    hypervolume_low: Figure = None  # its 95 % interval, over images and seeds
    hypervolume_high: Figure = None
    shrinkage: Figure = None  # retention lost from search to confirm, mean of the front's members
    shrinkage_low: Figure = None  # its 95 % interval, over these members
    shrinkage_high: Figure = None
    seconds: Figure = None  # over all sessions, without preparation: what --max-hours counts
    rungs: tuple[RungRecord, ...] = ()  # but the last
    groups: dict[str, tuple[str, ...]] = {}  # capability -> tasks
    floors: dict[str, FiniteFloat] = {}  # task or capability -> least share of the dense ability
    ended: str = ""  # why no more trials were launched
    stages: tuple[StageRecord, ...] = ()
    versions: dict[str, str] = {}

    @property
    def front(self) -> tuple[FrontPoint, ...]:
        """The points that none dominates and that meet the floors, smallest first."""
        free = [point for point in self.points if not point.dominated and not point.missed]
        return self.by_size(free)

    @property
    def below(self) -> tuple[FrontPoint, ...]:
        """The points that do not meet the floors, smallest first."""
        return self.by_size(point for point in self.points if point.missed)

    @property
    def nearest(self) -> FrontPoint | None:
        """The point that comes nearest to the floors, where none meets them."""
        if self.front or not self.below:
            return None
        return min(self.below, key=lambda point: sum(point.missed.values()))

    @property
    def stairs(self) -> tuple[FrontPoint, ...]:
        """The front without the points that are behind: each has a higher mean than the last.

        Where latency counts too, those that are on the front for their speed are left out.
        """
        found: list[FrontPoint] = []
        for point in self.front:
            higher = not found or point.retention.mean > found[-1].retention.mean
            if not point.behind and (higher or not self.timed):
                found.append(point)
        return tuple(found)

    @property
    def taken(self) -> float | None:
        """Seconds of all stages over all sessions, preparation included; None: none is noted."""
        return sum(stage.seconds for stage in self.stages) if self.stages else None

    def size(self, item: TrialRecord | FrontPoint | Dense | Budget) -> int:
        """Return a size in the objective's unit."""
        return size_in(item, self.objective)

    def by_size(self, points: Iterable[FrontPoint]) -> tuple[FrontPoint, ...]:
        """Return points with the smallest first, in the objective's unit."""
        return tuple(sorted(points, key=lambda point: (self.size(point), -point.retention.mean)))


class SearchInfo(Record):
    """What is known of a search when it starts; all that MLflow needs to file it."""

    name: str
    key: str  # tells this search from every other one anywhere, and stays on resume
    settings: dict[str, Knob] = {}  # model, sampler, seed, trials...: parameters of the parent run
    files: dict[str, str] = {}  # file name -> text: the space, the configuration
    versions: dict[str, str] = {}
    measured: dict[str, FiniteFloat] = {}  # what preparing it took, such as bytes of memory
    dense: Dense | None = None
    budget: Budget | None = None


class LoggedSearch(Record):
    """Where a search is found in MLflow: what links are made of."""

    uri: str
    experiment_id: str
    parent_run_id: str
    views: dict[str, str] = {}  # name of a saved view of the UI -> its share key
    runs: dict[int, str] = {}  # trial -> run id


def write_records(path: Path, records: list[TrialRecord]) -> None:
    """Write records as JSON lines."""
    path.write_text("".join(f"{record.to_json()}\n" for record in records))


def read_records(path: Path) -> list[TrialRecord]:
    """Read JSON lines of records; of several for one trial the last counts.

    A last line that was cut off by a kill is left out.

    Raises:
        AutoPruneError: a line before the last is not a record.
    """
    latest: dict[int, TrialRecord] = {}
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    for position, line in enumerate(lines):
        try:
            record = TrialRecord.from_json(line)
        except AutoPruneError:
            if position == len(lines) - 1 and not _is_json(line):
                break
            raise
        latest[record.trial] = record
    return [latest[number] for number in sorted(latest)]


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
