"""Who watches a search: the live table, plain lines, or nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import TrialRecord

if TYPE_CHECKING:
    from autoprune.search.records.stages import Forecast


@dataclass(frozen=True)
class Progress:
    """Where a search stands.

    Attributes:
        trials: number of trials asked for in all.
        complete, stopped, failed, running: trials in each state.
        hypervolume: of the full-fidelity trials so far, over reference (1, 0).
        seconds: spent so far, earlier sessions of a resumed search included.
        seconds_left: forecast from the trials so far until the last one ends; None before
            the first has ended.
        confirm_left: seconds that confirming the front as it is would take; None before
            there is one.
        expected_gain: hypervolume that another hour of sampling is expected to add; None before
            enough trials have ended.
    """

    trials: int
    complete: int = 0
    stopped: int = 0
    failed: int = 0
    running: int = 0
    hypervolume: float = 0.0
    seconds: float = 0.0
    seconds_left: float | None = None
    confirm_left: float | None = None
    expected_gain: float | None = None

    @property
    def ended(self) -> int:
        """Trials that have ended, in whatever way."""
        return self.complete + self.stopped + self.failed


class SearchListener:
    """Told what happens, on the driver, in order. Does nothing; override what is of interest.

    Calls must return soon: the search waits for them.
    """

    def on_forecast(self, forecast: Forecast) -> None:
        """Say what the search is expected to take, before it begins."""

    def on_stage(self, text: str) -> None:
        """Say that a stage before or after the trials begins, such as ``load the model``."""

    def on_trial(self, record: TrialRecord) -> None:
        """Say that a trial has started, reached a rung, or ended (see ``record.state``)."""

    def on_front(self, front: Sequence[TrialRecord], progress: Progress) -> None:
        """Say that a trial has ended: the unconfirmed front now, smallest first."""

    def on_confirm(self, done: int, total: int) -> None:
        """Say how many runs of the confirmation are done."""

    def on_warning(self, text: str) -> None:
        """Say in a line what went wrong beside the search, such as MLflow not answering."""

    def on_done(self, summary: SearchSummary) -> None:
        """Give the confirmed result."""
