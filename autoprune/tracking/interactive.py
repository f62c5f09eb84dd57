"""The Pareto plot to hover over: one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from autoprune.amounts import seconds_text
from autoprune.tracking.plots import (
    INK,
    RULE,
    axis_style,
    comparable,
    left_end,
    point_label,
    retention_range,
    right_end,
    stopped,
)
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import TrialRecord
from autoprune.tracking.timings import timing_text
from autoprune.tracking.units import size_label, summary_unit


def pareto_html(summary: SearchSummary, records: Sequence[TrialRecord], path: Path) -> None:
    """Write the front as an interactive page: sizes against retention, all on hover."""
    write_page(pareto_figure(summary, records), path)


def write_page(figure: Any, path: Path) -> None:
    """Write a plotly figure as one page that needs no network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(
        path,
        include_plotlyjs=True,
        full_html=True,
        default_height="94vh",
        config={"displaylogo": False, "responsive": True},
    )


def pareto_figure(summary: SearchSummary, records: Sequence[TrialRecord]) -> Any:
    """Return the plotly figure of the front."""
    import plotly.graph_objects as go

    figure = go.Figure()
    # Plotly writes thousands and millions itself, and knows nothing of powers of 1024.
    divisor, what, title, tick = 1.0, "parameters", "parameters of the whole model", ".3s"
    if summary.objective != "params":
        divisor, what, title, tick = summary_unit(summary)[0], "bytes", size_label(summary), ".3~f"
    done = comparable(records)
    for axis in sorted({r.axis for r in done}):
        of_axis = [r for r in done if r.axis == axis]
        figure.add_trace(
            _trials(
                go,
                summary,
                of_axis,
                f"trial, {axis}",
                color=axis_style(axis)[0],
                opacity=0.5,
                size=8,
            )
        )
    if early := stopped(records):
        figure.add_trace(
            _trials(
                go,
                summary,
                early,
                "stopped early: not comparable",
                color="rgba(0,0,0,0)",
                opacity=0.6,
                size=8,
                line={"color": "#9a9a9a", "width": 1},
            )
        )
    figure.add_trace(
        go.Scatter(
            x=[summary.size(p) / divisor for p in summary.stairs],
            y=[p.retention.mean for p in summary.stairs],
            mode="lines",
            line={"shape": "hv", "color": INK, "width": 1.5},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    for name, points, fill in (
        ("confirmed front", list(summary.stairs), None),
        ("tied, behind in the mean", [p for p in summary.front if p.behind], "white"),
        (
            "confirmed, dominated",
            [p for p in summary.points if p.dominated and not p.missed],
            "#cfcfcf",
        ),
        ("confirmed, below a floor", list(summary.below), "#cfcfcf"),
        ("baseline, confirmed alike", list(summary.baselines), "white"),
    ):
        if points:
            figure.add_trace(_points(go, summary, name, points, fill))
    dense = summary.dense
    figure.add_trace(
        go.Scatter(
            x=[summary.size(dense) / divisor],
            y=[1.0],
            mode="markers",
            name="dense model",
            marker={"symbol": "star", "size": 16, "color": INK},
            hovertext=[
                f"<b>dense model</b><br>{dense.params:,} parameters" + _scores(dense.scores)
            ],
            hoverinfo="text",
        )
    )
    figure.add_vline(
        x=summary.size(summary.budget) / divisor,
        line={"color": RULE, "dash": "dash"},
        annotation={"text": f"budget {escape(summary.budget.text)}", "font": {"color": RULE}},
        annotation_position="bottom right",
    )
    left = left_end(summary, records) / divisor
    limit = summary.size(summary.budget) / divisor
    right, far = right_end(left, limit, summary.size(dense) / divisor)
    note = ""
    if far:
        note = f"dense {summary.size(dense):,} lies to the right: double-click to see it"
    figure.add_hline(y=1.0, line={"color": INK, "dash": "dot", "width": 1})
    figure.update_layout(
        template="plotly_white",
        title={
            "text": f"{escape(summary.name)}: {what} against retention",
            "subtitle": {"text": note},
        },
        xaxis={
            "title": title,
            "tickformat": tick,
            "range": [right - 1.05 * (right - left), right],
        },
        yaxis={
            "title": "retention (1.0 = dense model)",
            "range": list(retention_range(summary, records)),
        },
        legend={"itemsizing": "constant", "orientation": "h", "y": -0.14},
        margin={"t": 60, "r": 20, "b": 50},
    )
    return figure


def _trials(
    go: Any, summary: SearchSummary, records: Sequence[TrialRecord], name: str, **marker: Any
) -> Any:
    opacity = marker.pop("opacity")
    divisor = summary_unit(summary)[0] if summary.objective != "params" else 1.0
    symbols = [axis_style(r.axis)[2] for r in records]
    return go.Scatter(
        x=[summary.size(r) / divisor for r in records],
        y=[r.retention for r in records],
        mode="markers",
        name=name,
        opacity=opacity,
        marker={"symbol": symbols, **marker},
        hovertext=[_trial_text(r) for r in records],
        hoverinfo="text",
    )


def _points(
    go: Any, summary: SearchSummary, name: str, points: Sequence[FrontPoint], fill: str | None
) -> Any:
    divisor = summary_unit(summary)[0] if summary.objective != "params" else 1.0
    symbols = ["diamond" if p.baseline else axis_style(p.axis)[2] for p in points]
    means = [p.retention.mean for p in points]
    return go.Scatter(
        x=[summary.size(p) / divisor for p in points],
        y=means,
        mode="markers+text",
        name=name,
        text=[escape(point_label(p)) for p in points],
        textposition="top right",
        marker={
            "symbol": symbols,
            "size": 13,
            "color": [fill or axis_style(p.axis)[0] for p in points],
            "line": {
                "color": [axis_style(p.axis)[0] if p.behind else INK for p in points],
                "width": 1.5,
            },
        },
        error_y={
            "type": "data",
            "array": [max(0.0, p.retention.high - p.retention.mean) for p in points],
            "arrayminus": [max(0.0, p.retention.mean - p.retention.low) for p in points],
            "color": "#555555",
            "thickness": 1.5,
        },
        hovertext=[point_text(p) for p in points],
        hoverinfo="text",
    )


def _trial_text(record: TrialRecord) -> str:
    knobs = "".join(
        f"<br>{escape(name)} = {escape(str(value))}" for name, value in record.knobs.items()
    )
    return (
        f"<b>{record.name}</b> ({record.state}, {record.fidelity:.0%} of its recovery)"
        f"<br>{record.params or 0:,} parameters ({record.fraction or 0:.1%}){_stored(record)}"
        f"<br>retention {record.retention or 0:.3f} on the search split"
        f"<br>{escape(record.axis)}, {escape(record.recovery)}, "
        f"{record.data_fraction or 0:.0%} of the data{knobs}{_scores(record.scores)}"
    )


def point_text(point: FrontPoint) -> str:
    """Return what is shown of a confirmed point on hover, as HTML."""
    r = point.retention
    tied = f"<br>{point.tie}" if point.tie else ""
    baseline = f" ({escape(point.baseline)})" if point.baseline else ""
    return (
        f"<b>{point.name}</b>{baseline}"
        f"<br>{point.params:,} parameters ({point.fraction:.1%}), "
        f"{point.backbone_removed:.1%} of the backbone removed{_stored(point)}{_token(point)}"
        f"<br>retention {r.mean:.3f} [{r.low:.3f}, {r.high:.3f}], {r.seeds} seeds{tied}"
        f"<br>{escape(point.axis)}, {escape(point.recovery)}, {point.data_fraction:.0%} of the data"
        f"{_scores(point.scores)}"
    )


def _token(point: FrontPoint) -> str:
    """Return a line on the time of a token, where it is known."""
    parts = [] if point.latency is None else [f"{seconds_text(point.latency)} modelled"]
    if point.measured is not None:
        parts.append(f"{timing_text(point.measured)} measured")
    return f"<br>a token: {', '.join(parts)}" if parts else ""


def _stored(item: TrialRecord | FrontPoint) -> str:
    """Return a line on how the weights are stored, where that is known."""
    if item.bytes is None:
        return ""
    return f"<br>{item.bytes:,} bytes in {escape(item.precision)} ({item.bytes_fraction or 0:.1%})"


def _scores(scores: dict[str, float]) -> str:
    return "".join(f"<br>{escape(task)}: {score:.3f}" for task, score in scores.items())
