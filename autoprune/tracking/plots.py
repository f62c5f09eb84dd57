"""The Pareto front of a search as a picture, and what other pictures of it share.

The colours are Okabe and Ito's, which stay apart for every kind of colour vision; each pruning
axis has its own mark as well. A trial that was stopped early is hollow and pale: its figure was
taken before its recovery was spent and is not comparable, so it is never joined to the front.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import TrialRecord
from autoprune.tracking.units import seeds_text, size_label, summary_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PALE, RULE = "#222222", "#9a9a9a", "#d55e00"
# axis -> (colour, matplotlib mark, plotly mark)
AXES = {
    "width": ("#0072b2", "o", "circle"),
    "depth": ("#e69f00", "s", "square"),
    "hybrid": ("#009e73", "^", "triangle-up"),
}
OTHER = ("#cc79a7", "P", "cross")


def axis_style(axis: str) -> tuple[str, str, str]:
    """Return colour, matplotlib mark and plotly mark of a pruning axis."""
    return AXES.get(axis, OTHER)


def point_label(point: FrontPoint) -> str:
    """Return how a point is named in a plot: its trial, and its precision where that tells.

    ``7 ≈ 4``: 7 ties with 4, which is smaller.
    """
    name = point.baseline or str(point.trial)
    bits = point.precision.partition("-")[0]
    name = name if bits in ("", "float32", "bfloat16") else f"{name} {bits}"
    smaller = point.tied_smaller
    if not smaller or point.dominated:
        return name
    return f"{name} ≈ " + (
        ", ".join(map(str, smaller)) if len(smaller) < 3 else f"{len(smaller)} smaller"
    )


def comparable(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials with a figure of full fidelity."""
    return [r for r in records if r.state == "complete" and r.retention is not None and r.params]


def stopped(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that have a figure, but not of full fidelity."""
    return [
        r
        for r in records
        if r.state in ("stopped", "running") and r.retention is not None and r.params
    ]


def retention_range(summary: SearchSummary, records: Sequence[TrialRecord]) -> tuple[float, float]:
    """Return the retentions to show: every confirmed point, the dense model's 1.0, most trials.

    The lowest twentieth of the trials does not stretch the frame.
    """
    tried = [r.retention for r in comparable(records) if r.retention is not None]
    values = [float(np.quantile(tried, 0.05)), max(tried)] if tried else []
    for point in (*summary.points, *summary.baselines):
        values += [point.retention.low, point.retention.high]
    low, high = min([0.95, *values]), max([1.0, *values])
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def left_end(summary: SearchSummary, records: Sequence[TrialRecord]) -> int:
    """Return the smallest size to show."""
    sizes = [summary.size(r) for r in comparable(records) + stopped(records)]
    sizes += [summary.size(p) for p in (*summary.points, *summary.baselines)]
    return min([*sizes, summary.size(summary.budget)])


def right_end(left: float, limit: float, dense: float) -> tuple[float, bool]:
    """Return where the frame ends on the right, and whether the dense model lies beyond it."""
    right = limit + 0.25 * (limit - left) if limit > left else 1.1 * limit
    if dense > right:
        return right, True
    return dense + 0.05 * (dense - left), False


def pareto_png(summary: SearchSummary, records: Sequence[TrialRecord], path: Path) -> None:
    """Draw sizes against retention: trials, confirmed front, baselines, budget, dense."""
    timed = summary.timed
    figure, axes = figure_and_axes(10.2, 9.2 if timed else 5.4, axes=not timed)
    if timed:
        axes, below = figure.subplots(2, 1, height_ratios=[3, 2])
        draw_latency(below, summary, records)
    divisor, unit = summary_unit(summary)
    dense_x = summary.size(summary.dense) / divisor
    bottom, top = retention_range(summary, records)
    _draw_trials(axes, summary, records, bottom)
    labels = _draw_front(axes, summary, divisor)
    labels += _draw_baselines(axes, summary, divisor)
    limit = summary.size(summary.budget) / divisor
    left = left_end(summary, records) / divisor
    right = _draw_dense(axes, dense_x, left, limit, unit)
    axes.set_xlim(right - (right - left) * 1.05, right)
    axes.set_ylim(bottom, top)
    axes.axvline(limit, color=RULE, ls="--", lw=1.3, zorder=1)
    axes.text(limit, bottom, f" budget {summary.budget.text}", color=RULE, fontsize=9, va="bottom")
    axes.set_xlabel(size_label(summary))
    axes.set_ylabel("retention (1.0 = dense model)")
    axes.set_title(_title(summary), fontsize=11, loc="left")
    share = axes.secondary_xaxis(
        "top", functions=(lambda x: 100 * x / dense_x, lambda s: s * dense_x / 100)
    )
    share.set_xlabel("share of the dense model (%)", fontsize=8, color=PALE)
    share.tick_params(labelsize=8, colors=PALE)
    axes.grid(alpha=0.25, lw=0.6)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False)
    place_labels(axes, labels)  # last: the layout has to stand
    save(figure, path)


def draw_latency(axes: Axes, summary: SearchSummary, records: Sequence[TrialRecord]) -> None:
    """Draw latency against retention, the points of the front named as above."""
    kinds = {p.latency_kind for p in summary.points} | {r.latency_kind for r in records}
    device = summary.running.device if summary.running else ""
    for record in comparable(records):
        if record.latency is not None:
            colour, mark, _ = axis_style(record.axis)
            axes.plot(
                [1e3 * record.latency],
                [record.retention or 0.0],
                mark,
                color=colour,
                ms=5,
                alpha=0.5,
                mew=0,
                zorder=3,
            )
    labels: list[Label] = []
    for point in {p.trial: p for p in (*summary.points, *summary.baselines)}.values():
        if point.latency is None:
            continue
        aside = point.dominated or point.missed
        colour, mark, _ = axis_style(point.axis)
        face = "#cfcfcf" if aside else "white" if point.behind or point.baseline else colour
        error_bar(axes, point, 1e3 * point.latency, fmt=mark, mfc=face, ecolor=colour, **CONFIRMED)
        labels.append((1e3 * point.latency, point.retention.mean, str(point.trial), INK))
        if point.measured is not None:
            ends = [[1e3 * point.measured.low], [1e3 * point.measured.high]]
            at = 1e3 * point.measured.seconds
            axes.plot([at], [point.retention.mean], "x", color=INK, ms=7, mew=1.4, zorder=6)
            axes.plot([*ends], [[point.retention.mean]] * 2, color=INK, lw=1.0, zorder=6)
    if summary.budget.latency is not None:
        axes.axvline(1e3 * summary.budget.latency, color=RULE, ls="--", lw=1.3, zorder=1)
    said = " ".join(sorted(filter(None, kinds)))
    axes.set_ylim(*retention_range(summary, records))
    crosses = "; crosses: measured" if any(p.measured for p in summary.points) else ""
    axes.set_xlabel(f"milliseconds a token on {device} ({said}{crosses})")
    axes.set_ylabel("retention")
    axes.grid(alpha=0.25, lw=0.6)
    place_labels(axes, labels)


def _title(summary: SearchSummary) -> str:
    name = f"{summary.name}: " if summary.name else ""
    seeds = {point.retention.seeds for point in summary.front}
    if not seeds:
        return f"{name}trials so far, no confirmed front yet"
    return f"{name}confirmed Pareto front, 95 % intervals over {seeds_text(max(seeds))} and images"


def _draw_trials(
    axes: Axes, summary: SearchSummary, records: Sequence[TrialRecord], bottom: float
) -> None:
    divisor, _ = summary_unit(summary)
    early = stopped(records)
    shown = [r for r in early if r.retention is not None and r.retention >= bottom]
    for record in shown:
        axes.plot(
            [summary.size(record) / divisor],
            [record.retention or 0.0],
            axis_style(record.axis)[1],
            mfc="none",
            mec="#b5b5b5",
            ms=5,
            mew=0.9,
            zorder=2,
        )
    done = comparable(records)
    for axis in sorted({r.axis for r in done}):
        colour, mark, _ = axis_style(axis)
        of_axis = [r for r in done if r.axis == axis]
        axes.plot(
            [summary.size(r) / divisor for r in of_axis],
            [r.retention or 0.0 for r in of_axis],
            mark,
            color=colour,
            ms=5,
            alpha=0.5,
            mew=0,
            zorder=3,
            label=f"trial, {axis} (search split)" if axis else "trial (search split)",
        )
    if early:
        axes.plot(
            [],
            [],
            "o",
            mfc="none",
            mec="#b5b5b5",
            ms=5,
            label=f"stopped early: not comparable ({len(early)})",
        )
    below = sum(r.retention is not None and r.retention < bottom for r in early + done)
    if below:
        axes.text(
            0.01,
            0.015,
            f"▼ {below} trial{'s' * (below > 1)} below the frame",
            transform=axes.transAxes,
            fontsize=8,
            color=PALE,
        )


def _draw_dense(axes: Axes, dense: float, left: float, limit: float, unit: str) -> float:
    """Draw the dense model and return the right end of the frame.

    Where it lies far to the right of all else, a frame that holds it would be half empty: its
    star then stands at the edge, and the text says at which size it belongs.
    """
    right, far = right_end(left, limit, dense)
    x = right if far else dense
    axes.axhline(1.0, color=INK, ls=":", lw=1, alpha=0.6, zorder=1)
    axes.plot([x], [1.0], "*", color=INK, ms=15, zorder=6, clip_on=False, label="dense model")
    text = f"dense {dense:.3g}{unit} →" if far else f"dense {dense:.3g}{unit}"
    axes.annotate(
        text,
        (x, 1.0),
        xytext=(-12, -15),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=INK,
    )
    return right


Label = tuple[float, float, str, str]
"""Place (size, retention), text and colour."""

CONFIRMED: dict[str, Any] = {
    "ms": 9,
    "mec": INK,
    "mew": 1.1,
    "elinewidth": 1.6,
    "capsize": 3.5,
    "zorder": 5,
}
"""How a confirmed point looks, whatever its mark and colour."""


def _draw_front(axes: Axes, summary: SearchSummary, divisor: float) -> list[Label]:
    front = summary.front
    if front:
        x = [summary.size(p) / divisor for p in summary.stairs]
        y = [p.retention.mean for p in summary.stairs]
        axes.plot(x, y, drawstyle="steps-post", color=INK, lw=1.2, alpha=0.7, zorder=4)
    for point in summary.points:
        aside = point.dominated or point.missed
        colour = "#cfcfcf" if aside else axis_style(point.axis)[0]
        place = summary.size(point) / divisor
        face = "white" if point.behind else colour
        mark = axis_style(point.axis)[1]
        error_bar(axes, point, place, fmt=mark, mfc=face, ecolor=colour, **CONFIRMED)
    if front:
        axes.plot([], [], "o", color="#555555", mec=INK, ms=8, label="confirmed front")
    if any(p.behind for p in front):
        label = "on it by a tie, behind in the mean"
        axes.plot([], [], "o", color="white", mec=INK, ms=8, label=label)
    if any(p.tied_smaller for p in front):
        axes.plot([], [], " ", label="7 ≈ 4: 7 ties with 4, which is smaller")
    if len(front) < len(summary.points):
        why = "dominated or below a floor" if summary.below else "dominated"
        axes.plot([], [], "o", color="#cfcfcf", mec=INK, ms=8, label=f"confirmed, {why}")
    return [
        (summary.size(p) / divisor, p.retention.mean, label, "#777777" if p.dominated else INK)
        for p in summary.points
        for label in [point_label(p.model_copy(update={"baseline": None}))]
    ]


def _draw_baselines(axes: Axes, summary: SearchSummary, divisor: float) -> list[Label]:
    for point in summary.baselines:
        place = summary.size(point) / divisor
        error_bar(axes, point, place, fmt="D", mfc="white", ecolor=INK, **CONFIRMED)
    if summary.baselines:
        axes.plot([], [], "D", color="white", mec=INK, ms=7, label="baseline, confirmed alike")
    return [
        (summary.size(p) / divisor, p.retention.mean, point_label(p), INK)
        for p in summary.baselines
    ]


def error_bar(axes: Axes, point: FrontPoint, place: float, **style: Any) -> None:
    """Draw a confirmed point at ``place`` on the axis of sizes, with its 95 % interval."""
    r = point.retention
    apart = [[max(0.0, r.mean - r.low)], [max(0.0, r.high - r.mean)]]
    axes.errorbar([place], [r.mean], yerr=apart, **style)


def place_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Write each label at the side of its point that is the least crowded."""
    figure = axes.get_figure()
    if figure is None or not labels:
        return
    figure.canvas.draw()
    places = axes.transData.transform([(x, y) for x, y, _, _ in labels])
    frame = axes.get_window_extent()
    taken: list[tuple[float, float, float, float]] = [
        (px - 9, py - 9, px + 9, py + 9) for px, py in places
    ]
    scale = figure.dpi / 100
    for (px, py), (x, y, text, colour) in zip(places, labels, strict=True):
        width, height = (6.2 * len(text) + 2) * scale * 1.25, 14 * scale
        best: tuple[float, tuple[float, float]] | None = None
        for right, up in ((9, 6), (-9, 6), (9, -20), (-9, -20), (12, -5)):
            dx, dy = right * scale - (width if right < 0 else 0), up * scale
            box = (px + dx, py + dy, px + dx + width, py + dy + height)
            cost = sum(_overlap(box, other) for other in taken)
            inside = frame.x0 < box[0] and box[2] < frame.x1
            cost += 0 if inside and frame.y0 < box[1] and box[3] < frame.y1 else 1e4
            if best is None or cost < best[0] - 1e-9:
                best = (cost, (dx, dy))
                chosen = box
        taken.append(chosen)
        assert best is not None
        points = 72 / figure.dpi
        axes.annotate(
            text,
            (x, y),
            xytext=(best[1][0] * points, best[1][1] * points),
            textcoords="offset points",
            fontsize=9,
            color=colour,
            zorder=7,
        )


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, wide) * max(0.0, high)


def figure_and_axes(width: float, height: float, *, axes: bool = True) -> tuple[Figure, Any]:
    """Return a figure with a canvas of its own: no global state, usable in any thread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots() if axes else None


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white")
