"""The front in a terminal: a table and a small plot."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from autoprune.amounts import seconds_text
from autoprune.tracking.plots import (
    comparable,
    left_end,
    retention_range,
    right_end,
    stopped,
)
from autoprune.tracking.records.costs import share_in
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import TrialRecord
from autoprune.tracking.timings import over_budget, timed
from autoprune.tracking.units import byte_unit, seeds_text, size_unit

COLOURS = {"width": "blue", "depth": "yellow", "hybrid": "green"}
MARKS = {"width": "w", "depth": "d", "hybrid": "h"}
UNICODE = {
    "front": "●",
    "tied": "○",
    "base": "◇",
    "stop": "∘",
    "bar": "│",
    "limit": "┊",
    "dense": "╌",
}
ASCII = {
    "front": "@",
    "tied": "o",
    "base": "<",
    "stop": ".",
    "bar": "|",
    "limit": ":",
    "dense": "-",
}


def params_text(params: int) -> str:
    """Return a size as people say it, in three figures: 847k, 1.19M, 12.3M."""
    divisor, unit = size_unit(params)
    if not unit:
        return str(params)
    value = params / divisor
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}{unit}"


def bytes_text(count: int) -> str:
    """Return bytes as people say them, in three figures: 847KiB, 1.19MiB, 12.3GiB."""
    divisor, unit = byte_unit(count)
    value = count / divisor
    return f"{value:.{0 if value >= 100 or divisor == 1 else 1 if value >= 10 else 2}f}{unit}"


def size_text(count: int, objective: str) -> str:
    """Return a size in the unit of an objective as people say it."""
    return bytes_text(count) if objective in ("bytes", "memory") else params_text(count)


def front_table(summary: SearchSummary, *, dominated: bool = False, wide: bool = False) -> Table:
    """Return the confirmed front as a table for 80 columns, baselines below it.

    `model` is the share of the whole model that is kept, `cut` the share of the backbone that
    is removed. Where sizes are in bytes, `stored` are those of the weights, `bits` those of a
    weight of the backbone, and `model` the share of the dense model's bytes.
    Where the time of a token is shown, what is cut (`axis`) is said in wide tables only.

    Args:
        summary: The search.
        dominated: Whether confirmed points that another one dominates are shown, too.
        wide: Whether there is room for the raw retention, and for ties in words.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        title=_caption(summary),
        title_justify="left",
        padding=0,
        show_edge=False,
    )
    sizes = ["params", "model"]
    if summary.objective in ("bytes", "memory"):
        first = "stored" if summary.objective == "bytes" else "memory"
        sizes = [first, "model", "bits", *(["params"] if wide else [])]
    sizes += _token_columns(summary, wide)
    for name in ("trial", *sizes, "cut"):
        table.add_column(name, justify="right", no_wrap=True)
    if _says_axis(summary, wide):
        table.add_column("axis", no_wrap=True)
    table.add_column("recovery", overflow="fold")
    table.add_column("data", justify="right", no_wrap=True)
    table.add_column("retention 95 %", no_wrap=True)
    if wide:
        table.add_column("raw", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    points = summary.front
    if dominated:
        points = summary.by_size(summary.points)
    else:
        points = (*points, *(point for point in summary.below if not point.dominated))
    for point in points:
        faint = point.dominated or point.missed
        table.add_row(*_cells(summary, point, wide=wide), style="dim" if faint else "")
    others = _not_among(summary.baselines, points)
    if others:
        table.add_section()
        for point in others:
            table.add_row(*_cells(summary, point, wide=wide), style="dim")
    return table


def _not_among(
    baselines: Sequence[FrontPoint], points: Sequence[FrontPoint]
) -> tuple[FrontPoint, ...]:
    """Return the usual recipes that are not shown as points already."""
    shown = {point.trial for point in points}
    return tuple(point for point in baselines if point.trial not in shown)


def _caption(summary: SearchSummary) -> Text:
    budget, dense = summary.budget, summary.dense
    caption = Text(style="not italic")
    caption.append(f"{summary.name}  " if summary.name else "", style="bold")
    stored = f"in {dense.precision or 'float32'}"
    counted, unit = ("bytes", stored) if _bounds_bytes(summary) else ("params", "parameters")
    said = [size_text(getattr(item, counted) or 0, counted) for item in (budget, dense)]
    caption.append(f"budget {budget.text} = {said[0]} of {said[1]} {unit}")
    if summary.objective == "bytes" and counted == "params":
        most, whole = (bytes_text(summary.size(item)) for item in (budget, dense))
        caption.append(f"\nstored: {most} at most, the dense model {whole} {stored}")
    if summary.running is not None and _says_running(summary):
        caption.append(f"\nanswering: {_running_text(summary)}")
    seeds = {point.retention.seeds for point in summary.front}
    if seeds:
        caption.append(f"\nretention over {seeds_text(max(seeds))} and images, 1.0 = dense")
        if any(point.tied_smaller for point in summary.front):
            caption.append("\nties: no better than these smaller ones beyond chance")
        if _not_among(summary.baselines, summary.front):
            caption.append("\nlast rows: the usual recipes")
    elif summary.below:
        caption.append("\nno point meets the floors")
    else:
        caption.append("\nno confirmed front yet")
    return caption


def _says_running(summary: SearchSummary) -> bool:
    budget = summary.budget
    return (
        summary.timed
        or bool(timed(summary))
        or summary.objective == "memory"
        or budget.memory is not None
        or budget.latency is not None
    )


def _running_text(summary: SearchSummary) -> str:
    """Return what the dense model takes while it answers, and for what that is said."""
    dense, parts = summary.dense, []
    if dense.memory is not None:
        parts.append(f"{bytes_text(dense.memory)} of memory")
    if dense.measured is not None:
        parts.append(f"{seconds_text(dense.measured.seconds)} a token measured")
    elif dense.latency is not None:
        parts.append(f"{seconds_text(dense.latency)} a token")
    running, said = summary.running, ""
    if running is not None:
        measured = dense.measured is not None and running.machine
        said = f"{running.prompt} on {running.machine}" if measured else running.said
    return f"the dense model {' and '.join(parts)}, at {said}"


def _bounds_bytes(summary: SearchSummary) -> bool:
    """Whether the budget is said in bytes, or is the same share of them, as fewer bits are not."""
    if summary.objective != "bytes":
        return False
    if summary.budget.text.endswith("bytes"):
        return True
    share = summary.size(summary.budget) / max(summary.size(summary.dense), 1)
    return abs(share - summary.budget.fraction) < 0.005


def _token_columns(summary: SearchSummary, wide: bool) -> list[str]:
    """Return the columns of latency: measured where it was, modelled where it is asked for."""
    if timed(summary):
        return ["modelled", "measured"] if wide else ["measured"]
    asked = summary.timed or summary.budget.latency is not None
    return ["a token"] if asked else []


def _says_axis(summary: SearchSummary, wide: bool) -> bool:
    """Whether there is room for the axis, which the plot's marks say too."""
    return wide or not _token_columns(summary, wide)


def _token_cells(summary: SearchSummary, point: FrontPoint, wide: bool) -> list[str]:
    known = {"measured": point.measured_latency}
    found = [known.get(name, point.latency) for name in _token_columns(summary, wide)]
    return ["–" if seconds is None else seconds_text(seconds) for seconds in found]


def _size_cells(summary: SearchSummary, point: FrontPoint, wide: bool) -> list[str]:
    token = _token_cells(summary, point, wide)
    if summary.objective in ("bytes", "memory"):
        return [
            bytes_text(summary.size(point)),
            f"{share_in(point, summary.objective) or 0:.1%}",
            "".join(c for c in point.precision.partition("-")[0] if c.isdigit()),
            *([params_text(point.params)] if wide else []),
            *token,
        ]
    return [params_text(point.params), f"{point.fraction:.1%}", *token]


def _cells(summary: SearchSummary, point: FrontPoint, *, wide: bool) -> list[str | Text]:
    r, axis = point.retention, _says_axis(summary, wide)
    notes = []
    if point.baseline:
        notes.append(point.baseline)
    if over_budget(summary, point):
        notes.append(f"over {seconds_text(summary.budget.latency or 0.0)}")
    if point.missed:
        notes.append(point.shortfall)
    elif point.dominated:
        notes.append("dominated")
    elif tied := _shown_ties(summary, point):
        short = point.model_copy(update={"tied_with": tied})
        notes.append(short.tie if wide else "ties " + ", ".join(map(str, tied)))
    retention = Text(f"{r.mean:.3f}", style="not bold" if point.behind else "bold")
    retention.append(f" {r.low:.3f}–{r.high:.3f}", style="not bold")
    return [
        str(point.trial),
        *_size_cells(summary, point, wide),
        f"{point.backbone_removed:.0%}",
        *([Text(point.axis, style=COLOURS.get(point.axis, "magenta"))] if axis else []),
        point.recovery,
        f"{point.data_fraction:.0%}",
        retention,
        *(["" if point.retention_raw is None else f"{point.retention_raw:.3f}"] if wide else []),
        "; ".join(notes),
    ]


def _shown_ties(summary: SearchSummary, point: FrontPoint) -> tuple[int, ...]:
    """Return the ties to show: each stands once, at the larger of the two points.

    A summary of an earlier version does not say which is smaller; it shows all.
    """
    known = any(p.tied_smaller for p in (*summary.points, *summary.baselines))
    return (
        point.tied_smaller if known and not point.behind else point.tied_smaller or point.tied_with
    )


class _Canvas:
    """A grid of styled characters over a range of sizes and retentions."""

    def __init__(
        self, width: int, height: int, x: tuple[float, float], y: tuple[float, float]
    ) -> None:
        self.width, self.height, self.x, self.y = width, height, x, y
        self.cells: list[list[tuple[str, str]]] = [[(" ", "")] * width for _ in range(height)]

    def column(self, value: float) -> int | None:
        return _bin(value, self.x, self.width)

    def row(self, value: float) -> int | None:
        position = _bin(value, self.y, self.height)
        return None if position is None else self.height - 1 - position

    def put(self, x: float, y: float, mark: str, style: str) -> None:
        column, row = self.column(x), self.row(y)
        if column is not None and row is not None:
            self.cells[row][column] = (mark, style)


def _bin(value: float, ends: tuple[float, float], count: int) -> int | None:
    low, high = ends
    if high <= low or not low <= value <= high:
        return None
    return min(count - 1, int((value - low) / (high - low) * count))


def front_plot(
    summary: SearchSummary,
    records: Sequence[TrialRecord] = (),
    *,
    width: int = 60,
    height: int = 15,
    unicode: bool = True,
) -> Text:
    """Return sizes against retention as text, ``height`` lines and an axis below.

    Trials are small letters of their axis, the confirmed front is filled with its intervals,
    its points that tie and are behind in the mean are hollow, baselines are diamonds, the budget
    is a dotted column and the dense model a dashed row.
    """
    marks = UNICODE if unicode else ASCII
    left = left_end(summary, records)
    right, far = right_end(left, summary.size(summary.budget), summary.size(summary.dense))
    canvas = _Canvas(
        width, height, (right - 1.05 * (right - left), right), retention_range(summary, records)
    )
    _draw_rules(canvas, summary, marks, far)
    for record in stopped(records):
        canvas.put(summary.size(record), record.retention or 0, marks["stop"], "dim")
    for record in comparable(records):
        mark = MARKS.get(record.axis, "x")
        style = COLOURS.get(record.axis, "magenta")
        canvas.put(summary.size(record), record.retention or 0, mark, f"dim {style}")
    for point in summary.baselines:
        canvas.put(summary.size(point), point.retention.mean, marks["base"], "bold")
    for point in summary.front:
        _draw_interval(canvas, summary.size(point), point, marks)
    for point in summary.front:
        style = f"bold {COLOURS.get(point.axis, 'magenta')}"
        mark = marks["tied" if point.behind else "front"]
        canvas.put(summary.size(point), point.retention.mean, mark, style)
    return _with_axes(canvas, summary, marks, bool(stopped(records)))


def _draw_rules(canvas: _Canvas, summary: SearchSummary, marks: dict[str, str], far: bool) -> None:
    row, column = canvas.row(1.0), canvas.column(summary.size(summary.budget))
    if row is not None:
        canvas.cells[row] = [(marks["dense"], "dim")] * canvas.width
        size = size_text(summary.size(summary.dense), summary.objective)
        text = f" dense {size} " + (">" if far else "")
        start = canvas.width - len(text)
        canvas.cells[row][start:] = [(character, "dim") for character in text]
    if column is not None:
        for line in canvas.cells:
            if line[column][0] in (" ", marks["dense"]):
                line[column] = (marks["limit"], "red")


def _draw_interval(canvas: _Canvas, size: int, point: FrontPoint, marks: dict[str, str]) -> None:
    column = canvas.column(size)
    top, bottom = canvas.row(point.retention.high), canvas.row(point.retention.low)
    if column is None or top is None or bottom is None:
        return
    for row in range(top, bottom + 1):
        canvas.cells[row][column] = (marks["bar"], COLOURS.get(point.axis, "magenta"))


def _with_axes(canvas: _Canvas, summary: SearchSummary, marks: dict[str, str], early: bool) -> Text:
    text = Text(no_wrap=True, overflow="crop")
    low, high = canvas.y
    labelled = {0, canvas.height - 1, canvas.height // 2}
    for row, line in enumerate(canvas.cells):
        value = high - (row + 0.5) / canvas.height * (high - low)
        text.append(f"{value:6.2f} " if row in labelled else " " * 7)
        for character, style in line:
            text.append(character, style=style)
        text.append("\n")
    text.append(" " * 7)
    text.append(_ticks(canvas, summary))
    text.append("\n" + " " * 7)
    legend = [f"{marks['front']} front", "w/d/h width/depth/hybrid"]
    if any(point.behind for point in summary.front):
        legend.insert(1, f"{marks['tied']} tied")
    if early:
        legend.append(f"{marks['stop']} stopped")
    if summary.baselines:
        legend.append(f"{marks['base']} baseline")
    legend.append(f"{marks['limit']} {summary.budget.text}")
    text.append("  ".join(legend), style="dim")
    return text


def _ticks(canvas: _Canvas, summary: SearchSummary, count: int = 5) -> str:
    low, high = canvas.x
    line = [" "] * canvas.width
    for index in range(count):
        value = low + (high - low) * index / (count - 1)
        label = size_text(round(value), summary.objective)
        start = round((canvas.width - len(label)) * index / (count - 1))
        line[start : start + len(label)] = label
    return "".join(line)
