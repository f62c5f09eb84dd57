"""The fronts of several searches in one picture: PNG for a page, HTML to hover over."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.tracking.comparison import Compared, Comparison
from autoprune.tracking.interactive import point_text, write_page
from autoprune.tracking.plots import (
    INK,
    Label,
    error_bar,
    figure_and_axes,
    place_labels,
    right_end,
    save,
)
from autoprune.tracking.records.costs import share_in
from autoprune.tracking.records.point import FrontPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that colour-blind readers can tell apart (Okabe and Ito), with a mark each.
STYLES = (
    ("#0072b2", "o", "circle"),
    ("#d55e00", "s", "square"),
    ("#009e73", "^", "triangle-up"),
    ("#cc79a7", "D", "diamond"),
    ("#e69f00", "v", "triangle-down"),
    ("#56b4e9", "P", "cross"),
    ("#000000", "X", "x"),
)
LIMIT = "#8c8c8c"


def style_of(place: int) -> tuple[str, str, str]:
    """Return colour, matplotlib mark and plotly mark of the search at ``place``."""
    return STYLES[place % len(STYLES)]


def overlay(comparison: Comparison, path: Path) -> None:
    """Draw the fronts beside each other, as PNG or HTML by the ending of ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".html":
        write_page(overlay_figure(comparison), path)
    else:
        overlay_png(comparison, path)


def heading(one: Compared) -> str:
    """Return how a search is named beside its front: with its hypervolume."""
    v = one.hypervolume
    return f"{one.name}: {v.mean:.3f} [{v.low:.3f}, {v.high:.3f}]"


def frame(comparison: Comparison) -> tuple[float, float, float, float, bool]:
    """Return left, right, bottom and top of the picture, and whether dense lies beyond it.

    Sizes are percent of the dense model.
    """
    shown = [p for one in comparison.searches for p in one.summary.front]
    shown += comparison.baselines
    sizes = [_percent(comparison, p) for p in shown]
    limits = [_limit(comparison, one) for one in comparison.searches]
    low = min([0.98, *(p.retention.low for p in shown)])
    high = max([1.0, *(p.retention.high for p in shown)])
    left = min([*sizes, *limits])
    right, far = right_end(left, max(limits), 100.0)
    return left - 0.06 * (right - left), right, low - 0.05, high + 0.05 * (high - low), far


def _percent(comparison: Comparison, point: FrontPoint) -> float:
    return 100 * (share_in(point, comparison.objective) or 0.0)


def _what(comparison: Comparison) -> str:
    return "parameters" if comparison.objective == "params" else comparison.objective


def _limit(comparison: Comparison, one: Compared) -> float:
    return 100 * one.summary.size(one.summary.budget) / one.summary.size(one.summary.dense)


def overlay_png(comparison: Comparison, path: Path) -> None:
    """Draw sizes against retention: each search's confirmed front, baselines, budgets, dense."""
    figure, axes = figure_and_axes(10.2, 5.4)
    left, right, bottom, top, far = frame(comparison)
    labels: list[Label] = []
    for place, one in enumerate(comparison.searches):
        labels += _draw_search(axes, comparison, one, place, right)
    labels += _draw_baselines(axes, comparison)
    if any(p.behind for one in comparison.searches for p in one.summary.front):
        axes.plot([], [], "o", color="white", mec=INK, ms=7, label="hollow: tied, lower mean")
    axes.axhline(1.0, color=INK, ls=":", lw=1, alpha=0.6, zorder=1)
    at = right if far else 100.0
    axes.plot([at], [1.0], "*", color=INK, ms=15, zorder=6, clip_on=False, label="dense model")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    for limit in sorted({round(_limit(comparison, one), 3) for one in comparison.searches}):
        axes.axvline(limit, color=LIMIT, ls="--", lw=1.2, zorder=1)
        axes.text(limit, bottom, f" budget {limit:.3g}%", color=LIMIT, fontsize=9, va="bottom")
    axes.set_xlabel(
        f"{_what(comparison)} kept (% of the dense model)" + ("; dense at 100 →" if far else "")
    )
    axes.set_ylabel("retention (1.0 = dense model)")
    axes.set_title("confirmed fronts, 95 % intervals over seeds and images", loc="left")
    axes.grid(alpha=0.25, lw=0.6)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.03, 1.0),
        fontsize=8,
        frameon=False,
        title="hypervolume [95 %]",
        title_fontsize=8,
        alignment="left",
    )
    place_labels(axes, labels)
    save(figure, path)


def _draw_search(
    axes: Axes, comparison: Comparison, one: Compared, place: int, right: float
) -> list[Label]:
    colour, mark, _ = style_of(place)
    size = max(4.5, 9.5 - 2.0 * place)  # a point that several share shows all their marks
    steps = one.summary.stairs
    if steps:
        x = [_percent(comparison, p) for p in steps]
        y = [p.retention.mean for p in steps]
        # The last step holds up to the edge: whatever is larger is no worse off than this.
        axes.plot(
            [*x, right],
            [*y, y[-1]],
            drawstyle="steps-post",
            color=colour,
            lw=1.6,
            alpha=0.8,
            zorder=4,
        )
    for point in one.summary.front:
        error_bar(
            axes,
            point,
            _percent(comparison, point),
            fmt=mark,
            ms=size,
            mfc="white" if point.behind else colour,
            mec=colour,
            mew=1.3,
            ecolor=colour,
            elinewidth=1.2,
            capsize=3,
            zorder=5,
        )
    axes.plot([], [], marker=mark, color=colour, lw=1.6, ms=7, label=heading(one))
    return [
        (_percent(comparison, p), p.retention.mean, str(p.trial), colour) for p in one.summary.front
    ]


def _draw_baselines(axes: Axes, comparison: Comparison) -> list[Label]:
    for point in comparison.baselines:
        error_bar(
            axes,
            point,
            _percent(comparison, point),
            fmt="D",
            ms=5,
            mfc="white",
            mec="#555555",
            ecolor="#999999",
            elinewidth=1,
            capsize=2,
            zorder=3,
        )
    if comparison.baselines:
        axes.plot([], [], "D", color="white", mec="#555555", ms=5, label="baselines, run alike")
    return [
        (_percent(comparison, p), p.retention.mean, p.baseline or "", "#777777")
        for p in comparison.baselines
    ]


def overlay_figure(comparison: Comparison) -> Any:
    """Return the plotly figure of the fronts beside each other."""
    import plotly.graph_objects as go

    figure = go.Figure()
    left, right, bottom, top, _ = frame(comparison)
    for place, one in enumerate(comparison.searches):
        colour, _, mark = style_of(place)
        steps = one.summary.stairs
        if steps:
            x = [_percent(comparison, p) for p in steps]
            y = [p.retention.mean for p in steps]
            figure.add_trace(
                go.Scatter(
                    x=[*x, 100],
                    y=[*y, y[-1]],
                    mode="lines",
                    line={"shape": "hv", "color": colour, "width": 2},
                    hoverinfo="skip",
                    showlegend=False,
                    legendgroup=str(place),
                )
            )
        points = list(one.summary.front)
        figure.add_trace(
            _marks(go, comparison, points, escape(heading(one)), colour, mark, str(place))
        )
    if comparison.baselines:
        points = list(comparison.baselines)
        figure.add_trace(
            _marks(go, comparison, points, "baselines, run alike", "#777777", "diamond-open", "b")
        )
    figure.add_hline(y=1.0, line={"color": INK, "dash": "dot", "width": 1})
    for limit in sorted({round(_limit(comparison, one), 3) for one in comparison.searches}):
        figure.add_vline(
            x=limit,
            line={"color": LIMIT, "dash": "dash"},
            annotation={"text": f"budget {limit:.3g}%", "font": {"color": LIMIT}},
            annotation_position="bottom right",
        )
    figure.update_layout(
        template="plotly_white",
        title="confirmed fronts; hypervolume and its 95 % interval beside the name",
        xaxis={"title": f"{_what(comparison)} kept (% of the dense model)", "range": [left, right]},
        yaxis={"title": "retention (1.0 = dense model)", "range": [bottom, top]},
        legend={"itemsizing": "constant", "orientation": "h", "y": -0.14},
        margin={"t": 60, "r": 20, "b": 50},
    )
    return figure


def _marks(
    go: Any,
    comparison: Comparison,
    points: list[FrontPoint],
    name: str,
    colour: str,
    mark: str,
    group: str,
) -> Any:
    return go.Scatter(
        x=[_percent(comparison, p) for p in points],
        y=[p.retention.mean for p in points],
        mode="markers",
        name=name,
        legendgroup=group,
        marker={
            "symbol": mark,
            "size": 12,
            "color": ["white" if p.behind else colour for p in points],
            "line": {"color": colour, "width": 2},
        },
        error_y={
            "type": "data",
            "array": [max(0.0, p.retention.high - p.retention.mean) for p in points],
            "arrayminus": [max(0.0, p.retention.mean - p.retention.low) for p in points],
            "color": colour,
            "thickness": 1.2,
        },
        hovertext=[f"{name.partition(':')[0]}<br>{point_text(p)}" for p in points],
        hoverinfo="text",
    )
