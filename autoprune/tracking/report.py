"""The front as a table of plain values, and the folder of files that goes beside a search."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autoprune.tracking.records.costs import share_in
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import TrialRecord
from autoprune.tracking.timings import timings

COLUMNS = (
    "trial",
    "params",
    "share of the model",
    "backbone removed",
    "precision",
    "bytes",
    "share of the bytes",
    "axis",
    "recovery",
    "data",
    "retention",
    "low",
    "high",
    "seeds",
    "raw retention",
    "tied with",
    "of these smaller",
    "baseline",
    "dominated",
    "tied, behind in the mean",
    "memory",
    "modelled seconds a token",
    "measured seconds a token",
)


def front_table(summary: SearchSummary) -> tuple[list[str], list[list[Any]]]:
    """Return column names and rows: the confirmed points by size, then the baselines.

    Scores follow as one column a task.
    """
    tasks = list(summary.dense.scores)
    points = summary.by_size(summary.points)
    rows = [_row(point, tasks) for point in (*points, *summary.baselines)]
    return [*COLUMNS, *tasks], rows


def _row(point: FrontPoint, tasks: list[str]) -> list[Any]:
    retention = point.retention
    return [
        point.name,
        point.params,
        round(point.fraction, 4),
        round(point.backbone_removed, 4),
        point.precision,
        point.bytes,
        None if point.bytes_fraction is None else round(point.bytes_fraction, 4),
        point.axis,
        point.recovery,
        point.data_fraction,
        round(retention.mean, 4),
        round(retention.low, 4),
        round(retention.high, 4),
        retention.seeds,
        None if point.retention_raw is None else round(point.retention_raw, 4),
        ", ".join(str(trial) for trial in point.tied_with),
        ", ".join(str(trial) for trial in point.tied_smaller),
        point.baseline or "",
        point.dominated,
        point.behind,
        point.memory,
        point.latency,
        point.measured_latency,
        *(None if (score := point.scores.get(task)) is None else round(score, 4) for task in tasks),
    ]


def front_csv(summary: SearchSummary) -> str:
    """Return the table as CSV."""
    columns, rows = front_table(summary)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def front_json_table(summary: SearchSummary) -> str:
    """Return the table in the form that the MLflow UI shows as one (columns and data)."""
    columns, rows = front_table(summary)
    return json.dumps({"columns": columns, "data": rows})


def keep_map_json(summary: SearchSummary, records: Iterable[TrialRecord]) -> str:
    """Return what each confirmed point keeps of each layer, as shares."""
    keeps = {record.trial: record.keep for record in records}
    chosen = {
        point.name: {
            "attention": [round(share, 4) for share in keep.attention],
            "mlp": [round(share, 4) for share in keep.mlp],
            **keep.model_dump(mode="json"),
        }
        for point in (*summary.front, *summary.baselines)
        if (keep := keeps.get(point.trial)) is not None
    }
    return json.dumps(chosen, indent=1)


def markdown(summary: SearchSummary) -> str:
    """Return the description of a search's run: the confirmed front, and what to do with it.

    The table is plain text: the UI gives tables of markdown neither lines nor room.
    """
    budget, dense = summary.size(summary.budget), summary.size(summary.dense)
    unit = "parameters"
    if summary.objective == "bytes":
        unit = f"bytes in {summary.dense.precision or 'float32'}"
    if summary.objective == "memory":
        unit = "bytes of memory"
    lines = [
        f"**{summary.name}**: budget {summary.budget.text} = {budget:,} of {dense:,} {unit}. "
        "Retention is the share of the original's ability that is kept.",
        "",
    ]
    if not summary.front:
        return "\n".join([*lines, "No confirmed front yet."])
    lines += ["```", *_text_table(summary), "```"]
    first = summary.stairs[-1]
    lines += [
        "",
        *(f"{line}." for line in figures(summary)),
        "",
        "```",
        f"autoprune ui {summary.name}",
        f"autoprune export {summary.name}:{first.trial} -o smaller-model",
        f"autoprune register smaller-model --name {summary.name}",
        "```",
    ]
    return "\n".join(lines)


def _text_table(summary: SearchSummary) -> list[str]:
    """Return the confirmed points as lines of one width a column."""
    unit = {"params": "parameters"}.get(summary.objective, summary.objective)
    rows = [["trial", unit, "share", "bits", "retention (95 %)", "axis", "recovery", ""]]
    for point in (*summary.front, *summary.baselines):
        r = point.retention
        rows.append(
            [
                point.name,
                f"{summary.size(point):,}",
                f"{share_in(point, summary.objective) or 0.0:.1%}",
                point.precision,
                f"{r.mean:.3f} [{r.low:.3f}, {r.high:.3f}]",
                point.axis,
                f"{point.recovery}, {point.data_fraction:.0%} of the data",
                point.baseline or _ties(point),
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    numbers = {1, 2}
    return [
        "  ".join(
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _ties(point: FrontPoint) -> str:
    """Return the smaller ones that a point is not told apart from."""
    smaller = ", ".join(str(trial) for trial in point.tied_smaller)
    return f"ties {smaller}" if smaller else ""


def figures(summary: SearchSummary) -> list[str]:
    """Return sentences on hypervolume, shrinkage, their level, and on what was measured of time."""
    lines = []
    if summary.hypervolume is not None:
        sure = interval_text(summary.hypervolume_low, summary.hypervolume_high)
        whole = "no size and in no time" if summary.timed else "no size"
        lines.append(
            f"Hypervolume {summary.hypervolume:.3f}{sure}, over images and seeds "
            f"(1 is the dense model's ability at {whole})"
        )
    if summary.shrinkage is not None:
        sure = interval_text(summary.shrinkage_low, summary.shrinkage_high, sign="+")
        lines.append(
            "Shrinkage from the search's score to the confirmed one "
            f"{summary.shrinkage:+.3f}{sure}, mean over the front's members"
        )
    if lines:
        lines.append(
            "Intervals and ties are at 95 % each: nothing is corrected for how many there are"
        )
    return [*lines, *timings(summary)]


def interval_text(low: float | None, high: float | None, *, sign: str = "") -> str:
    """Return `` [0.401, 0.423]``, or nothing where there is no interval."""
    return "" if low is None or high is None else f" [{low:{sign}.3f}, {high:{sign}.3f}]"


def write_files(folder: Path, summary: SearchSummary, records: list[TrialRecord]) -> None:
    """Write the table, the plots and the records of a search into a folder.

    Gives `front/` (tables, Pareto plot as PNG and HTML, keep map as PNG and JSON) and
    `trials.jsonl`.
    """
    from autoprune.tracking.interactive import pareto_html
    from autoprune.tracking.keep_map import keep_map_png
    from autoprune.tracking.plots import pareto_png
    from autoprune.tracking.records.trial import write_records

    front = folder / "front"
    front.mkdir(parents=True, exist_ok=True)
    (front / "summary.json").write_text(summary.to_json(indent=2))
    (front / "front.csv").write_text(front_csv(summary))
    (front / "front.json").write_text(front_json_table(summary))
    (front / "keep_map.json").write_text(keep_map_json(summary, records))
    write_records(folder / "trials.jsonl", records)
    pareto_png(summary, records, front / "pareto.png")
    pareto_html(summary, records, front / "pareto.html")
    keep_map_png(summary, records, front / "keep_map.png")
