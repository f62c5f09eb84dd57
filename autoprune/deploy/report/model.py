"""What a report shows, as plain data: all words and places are decided, none is drawn.

Retentions are shares of the dense model's ability above guessing (1.0 is all of it). Places on a
chart are shares of its frame: 0 is its left or lower edge, 1 its right or upper one.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FiniteFloat

from autoprune.tracking.records.base import Record
from autoprune.tracking.records.trial import KeepMap

Kind = Literal[
    "front", "tied", "baseline", "below", "dominated", "trial", "stopped", "running", "failed"
]

CONFIRMED: tuple[Kind, ...] = ("front", "tied", "baseline", "below", "dominated")
"""Kinds that were run again on images no trial has seen: these have an interval."""


class Fact(Record):
    """A name and what it is."""

    name: str
    value: str


class Tile(Record):
    """A figure that stands out at the top."""

    label: str
    value: str
    note: str = ""


class Tick(Record):
    """A value on the edge of a chart."""

    at: FiniteFloat
    text: str
    note: str = ""


class Mark(Record):
    """A trial on a chart; places may lie outside the frame only where ``inside`` is false."""

    trial: int
    kind: Kind
    axis: str = ""  # what it cuts: width, depth, hybrid
    x: FiniteFloat
    y: FiniteFloat
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    label: str = ""
    says: str  # the mark in words
    inside: bool = True


class Chart(Record):
    """Sizes in one unit against retention."""

    key: str  # params, bytes, memory, latency, measured_latency
    choice: str  # how the unit is chosen
    title: str  # of the axis of sizes
    marks: tuple[Mark, ...]
    stairs: tuple[tuple[FiniteFloat, FiniteFloat], ...] = ()  # corners of the front, by size
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    budget: Tick | None = None
    dense: Tick | None = None  # the dense model's size; at 1 where it lies beyond the frame
    dense_far: bool = False
    whole: FiniteFloat  # where a retention of 1.0 is
    below: int = 0  # marks under the frame
    note: str = ""  # what sizes in this unit are said for


class Score(Record):
    """A task's score (0 to 1), and the dense model's where it is known."""

    task: str
    value: FiniteFloat
    dense: FiniteFloat | None = None


class Detail(Record):
    """All that is told of one trial."""

    trial: int
    kind: Kind
    title: str
    verdict: str  # what became of it, in a line
    retention: FiniteFloat | None = None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    facts: tuple[Fact, ...] = ()
    capabilities: tuple[Score, ...] = ()  # shares of the dense model's, above guessing
    scores: tuple[Score, ...] = ()
    knobs: tuple[Fact, ...] = ()
    keep: KeepMap | None = None
    ties: tuple[int, ...] = ()
    command: str = ""  # that gets it as a checkpoint


class Row(Record):
    """A confirmed point in the table."""

    trial: int
    kind: Kind
    name: str  # of the baseline, if it is one
    standing: str
    size: FiniteFloat  # in the objective's unit
    size_text: str
    share: FiniteFloat | None
    removed: FiniteFloat
    retention: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    raw: FiniteFloat | None = None
    seeds: int
    precision: str
    axis: str
    recovery: str
    data: FiniteFloat
    ties: str
    scores: dict[str, FiniteFloat] = Field(default_factory=dict)
    capabilities: dict[str, FiniteFloat] = Field(default_factory=dict)
    extra: tuple[str, ...] = ()  # further sizes, as ``Report.extra`` names them


class Knob(Record):
    """How much of the spread in retention a knob explains."""

    name: str
    meaning: str
    share: FiniteFloat = Field(ge=0)
    chance: FiniteFloat = Field(ge=0)  # the most that shuffled retentions gave it

    @property
    def beyond(self) -> bool:
        """Whether it explains more than chance did."""
        return self.share > self.chance


class Importances(Record):
    """Which knobs moved retention, and how that was found; without knobs, why it was not."""

    evaluator: str
    target: str
    trials: int  # that it rests on
    knobs: tuple[Knob, ...] = ()
    varied: int = 0  # knobs that were looked at
    note: str = ""


class Rung(Record):
    """How well a look before the end ranked trials as their end did."""

    at: str
    correlation: FiniteFloat | None = None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    trials: int
    said: str
    stops: str


class Stage(Record):
    """A stage's time: seconds said before launch, and seconds taken."""

    name: str
    seconds: FiniteFloat
    forecast: FiniteFloat | None = None
    taken_text: str
    forecast_text: str
    verdict: str


class Loser(Record):
    """A trial that is not on the front, and why."""

    trial: int
    axis: str
    size_text: str
    recovery: str
    spent: str  # share of its recovery
    retention: FiniteFloat | None
    why: str


class Losers(Record):
    """Trials that did not get anywhere, by how they ended."""

    title: str
    note: str
    rows: tuple[Loser, ...]


class Command(Record):
    """A line to type, and what it does."""

    what: str
    line: str


class Report(Record):
    """One search, as its page tells it."""

    name: str
    state: str  # finished, running, interrupted
    state_text: str
    found: tuple[str, ...]  # what was found, in sentences; the first says the most
    tiles: tuple[Tile, ...] = ()
    charts: tuple[Chart, ...] = ()
    confirmed: bool = False  # whether the stairs are of confirmed points
    details: tuple[Detail, ...] = ()
    chosen: int | None = None  # the trial that is shown first
    rows: tuple[Row, ...] = ()
    extra: tuple[str, ...] = ()  # names of further sizes in the table
    capabilities: tuple[str, ...] = ()  # that points are compared by
    dense_scores: dict[str, FiniteFloat] = Field(default_factory=dict)
    frame: tuple[FiniteFloat, FiniteFloat] = (0.0, 1.0)  # retentions that charts show
    verdicts: tuple[str, ...] = ()
    importances: Importances
    rungs: tuple[Rung, ...] = ()
    rungs_note: str = ""
    stages: tuple[Stage, ...] = ()
    stages_note: str = ""
    losers: tuple[Losers, ...] = ()
    settings: tuple[Fact, ...] = ()
    budget: tuple[Fact, ...] = ()
    versions: tuple[Fact, ...] = ()
    commands: tuple[Command, ...] = ()

    def detail(self, trial: int) -> Detail | None:
        """Return what is told of a trial."""
        return next((one for one in self.details if one.trial == trial), None)
