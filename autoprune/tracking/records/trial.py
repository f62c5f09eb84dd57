"""One record a trial, and files of them.

Shares and fractions are 0 to 1, a retention of 1.0 is the dense model's, sizes are counts of
parameters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from autoprune.errors import AutoPruneError
from autoprune.tracking.records.base import Figure, Knob, Record, trial_name

SAMPLED = ("sampler", "slide")
"""Origins of trials that were proposed: drawn by the sampler, or a front member at another size."""

OWN = (*SAMPLED, "refine", "warm")
"""Origins of trials that a search found itself: proposed, moved a little from a front member, or
taken over from the front of an earlier search."""

START = "start-"
"""Begins the origins of AutoPrune's own starting points: tried first, and no baselines either."""

State = Literal["running", "complete", "stopped", "failed"]


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
    asked_removed: Figure = None  # the share that its knobs ask for, where a bound took more
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
    rung_missed: tuple[FiniteFloat, ...] = ()  # by how much in all, at each rung
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
    def cut_further(self) -> str:
        """That a bound had more cut than was asked for, in words; empty where none had."""
        if self.asked_removed is None:
            return ""
        took = "" if self.backbone_removed is None else f", {self.backbone_removed:.1%},"
        return (
            f"more of the backbone removed{took} than the {self.asked_removed:.1%} asked for, "
            "to keep to the budget"
        )

    @property
    def given(self) -> dict[str, bool | int | float | str]:
        """The knobs that have a value."""
        return {name: value for name, value in self.knobs.items() if value is not None}

    @property
    def baseline(self) -> str | None:
        """Name of the baseline that it runs, or None for what the search found itself."""
        return None if self.origin in OWN or self.origin.startswith(START) else self.origin


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
