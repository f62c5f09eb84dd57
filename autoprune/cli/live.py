"""What a running search looks like: a live table on a terminal, plain lines elsewhere.

Both views listen to the search: they are told of stages, trials and fronts and change nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from autoprune.cli.output import duration
from autoprune.cli.plan import forecast_line, forecast_values
from autoprune.search.listener import Progress, SearchListener
from autoprune.search.patience import POINT
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import TrialRecord
from autoprune.tracking.terminal import bytes_text, params_text

if TYPE_CHECKING:
    from autoprune.search.records.stages import Forecast

ROWS = 8
"""Rows of the front that the live table shows."""


class View(SearchListener):
    """Keeps what the search has told; sub-classes draw it.

    Args:
        trials: number of trials that the search will run in all.
        console: where it is drawn.
    """

    def __init__(self, trials: int, console: Console) -> None:
        self.console = console
        self.stage = "starting"
        self.running: dict[int, TrialRecord] = {}
        self.front: tuple[TrialRecord, ...] = ()
        self.progress = Progress(trials=trials)
        self.confirmed: tuple[int, int] | None = None
        self.confirm_left: float | None = None
        self.forecast: float | None = None
        self._began = self._told = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to clean up."""

    @property
    def seconds(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._began

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the front is confirmed: as forecast, then as the trials so far tell."""
        left = self.progress.seconds_left
        if left is None:
            return None if self.forecast is None else max(self.forecast - self.seconds, 0.0)
        trials = max(left - (time.monotonic() - self._told), 0.0)
        return trials + (self.progress.confirm_left or 0.0)

    @property
    def volume(self) -> str:
        """The hypervolume, and what another hour of sampling is expected to add to it."""
        text = f"hypervolume {self.progress.hypervolume:.3f}"
        gain = self.progress.expected_gain
        if gain is None:
            return text
        return f"{text}, {gain / POINT:+.2g} points expected of another hour"

    def on_forecast(self, forecast: Forecast) -> None:
        """Write what the search is expected to take."""
        self.forecast = self.seconds + forecast.seconds
        self.console.print(
            Text(f"forecast: {forecast_line(forecast_values(forecast))}"), soft_wrap=True
        )

    def on_stage(self, text: str) -> None:
        """Remember the stage."""
        self.stage = text

    def on_trial(self, record: TrialRecord) -> None:
        """Remember what is running."""
        if record.state == "running":
            self.running[record.trial] = record
        else:
            self.running.pop(record.trial, None)

    def on_front(self, front: Sequence[TrialRecord], progress: Progress) -> None:
        """Remember the front and the counts."""
        self.front = tuple(front)
        self.progress = progress
        self._told = time.monotonic()

    def on_confirm(self, done: int, total: int) -> None:
        """Remember how far the confirmation is."""
        now = time.monotonic()
        if self.confirmed is None:
            self._confirming = (done, now)
        first, began = self._confirming
        if done > first:
            self.confirm_left = (now - began) / (done - first) * (total - done)
        self.confirmed = (done, total)

    def on_done(self, summary: SearchSummary) -> None:
        """Remember that the search has ended."""
        self.stage = "done"


def describe_trial(record: TrialRecord) -> str:
    """Return one line on a trial."""
    parts = [f"trial {record.trial} {record.state}"]
    if record.origin != "sampler":
        parts[0] += f" ({record.origin}{'' if record.parent is None else f' of {record.parent}'})"
    if record.fraction is not None and record.params is not None:
        parts.append(f"{params_text(record.params)} params, {record.fraction:.1%} of the whole")
        if record.bytes is not None and record.precision not in ("", "float32", "bfloat16"):
            parts[-1] += f", {bytes_text(record.bytes)} in {record.precision}"
    if record.retention is not None:
        parts.append(f"retention {record.retention:.3f}")
    if record.axis:
        parts.append(f"{record.axis}, {record.recovery}")
    if record.data_fraction is not None:
        parts.append(f"{record.data_fraction:.0%} data")
    if record.cut_further:
        parts.append(record.cut_further)
    if record.reason:
        parts.append(record.reason)
    return " · ".join(parts)


def _confirmation(view: View) -> str:
    done, total = view.confirmed or (0, 0)
    left = f", about {duration(view.confirm_left)} left" if view.confirm_left else ""
    return f"confirmation {done}/{total}{left}"


def _confirming(view: View) -> str:
    seconds = view.progress.confirm_left
    return f", {duration(seconds)} of it to confirm" if seconds else ", then it is confirmed"


def render(view: View) -> RenderableType:
    """Return the live table: stage, counts, front, time."""
    progress = view.progress
    lines: list[RenderableType] = [
        Text(view.stage, style="bold"),
        Text(
            f"trials {progress.ended}/{progress.trials}: {progress.complete} done, "
            f"{len(view.running)} running, {progress.stopped} stopped, {progress.failed} failed"
        ),
    ]
    if view.front:
        more = f", {ROWS} of {len(view.front)} points" if len(view.front) > ROWS else ""
        lines.append(Text(f"front, not yet confirmed{more}: {view.volume}"))
        lines.append(_front_table(view.front))
    clock = f"elapsed {duration(view.seconds)}"
    if view.confirmed is not None:
        clock += f" · {_confirmation(view)}"
    elif (left := view.seconds_left) is not None:
        clock += f" · about {duration(left)} left{_confirming(view)}"
    return Group(*lines, Text(clock, style="dim"))


def _front_table(front: Sequence[TrialRecord]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    # Bytes and bits are shown where they tell points apart.
    stored = len({record.precision for record in front}) > 1 or any(
        record.precision not in ("", "float32", "bfloat16") for record in front
    )
    sizes = ("params", "of whole", *(("stored", "bits") if stored else ()))
    for title in ("trial", *sizes, "retention", "axis", "recovery", "data"):
        table.add_column(title, justify="left" if title in ("axis", "recovery") else "right")
    for record in _spread(front, ROWS):
        table.add_row(
            str(record.trial),
            params_text(record.params or 0),
            f"{record.fraction or 0:.1%}",
            *((bytes_text(record.bytes or 0), record.precision) if stored else ()),
            f"{record.retention or 0:.3f}",
            record.axis,
            record.recovery,
            "" if record.data_fraction is None else f"{record.data_fraction:.0%}",
        )
    return table


def _spread(front: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    """Return ``count`` members over the whole range of sizes, both ends included."""
    if len(front) <= count:
        return list(front)
    return [front[round(i * (len(front) - 1) / (count - 1))] for i in range(count)]


class LiveView(View):
    """Redraws one table in place, on a terminal."""

    def __enter__(self) -> Self:
        self._live = Live(
            console=self.console,
            get_renderable=lambda: render(self),
            refresh_per_second=4,
            transient=True,
        )
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the table off the screen."""
        self._live.stop()

    def on_trial(self, record: TrialRecord) -> None:
        """Take note; a failure stays on the screen."""
        super().on_trial(record)
        if record.state == "failed":
            self.console.print(Text(describe_trial(record), style="red"))


class PlainView(View):
    """Writes a line for each thing that has happened: for logs, pipes and CI."""

    def _line(self, text: str) -> None:
        self.console.print(Text(f"[{duration(self.seconds):>11}] {text}"), soft_wrap=True)

    def on_stage(self, text: str) -> None:
        """Write the stage."""
        if text != self.stage:
            self._line(text)
        super().on_stage(text)

    def on_trial(self, record: TrialRecord) -> None:
        """Write that a trial has ended."""
        super().on_trial(record)
        if record.state != "running":
            self._line(describe_trial(record))

    def on_front(self, front: Sequence[TrialRecord], progress: Progress) -> None:
        """Write where the search stands, when the front has moved."""
        moved = progress.hypervolume != self.progress.hypervolume
        super().on_front(front, progress)
        if not moved:
            return
        left = self.seconds_left
        tail = f", about {duration(left)} left" if left else ""
        self._line(
            f"trials {progress.ended}/{progress.trials}, front of {len(front)}, {self.volume}{tail}"
        )

    def on_confirm(self, done: int, total: int) -> None:
        """Write how far the confirmation is."""
        super().on_confirm(done, total)
        self._line(_confirmation(self))


def view(trials: int, console: Console) -> View:
    """Return the view that suits the console."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(trials, console)
    return PlainView(trials, console)
