"""The rows as a table, the errors in short, and the plot."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from autoprune.tracking.plots import figure_and_axes, save

HERE = Path(__file__).parent
TRIES = {
    "first": "bandwidth of a copy alone",
    "second": "bandwidth of reading, and overheads",
    "modelled": "also attention's rate, and that of narrow matrices",
}


def read(path: Path = HERE / "rows.jsonl") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    machine, *rows = (json.loads(line) for line in path.read_text().splitlines())
    return machine, rows


def errors(rows: list[dict[str, Any]], name: str) -> tuple[float, float]:
    """Median of the absolute errors, and the worst error with its sign."""
    found = [row[name] / row["measured"] - 1 for row in rows]
    return statistics.median(map(abs, found)), max(found, key=abs)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| size | cut | context | weights and cache | measured (95 %) | modelled | error |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        low, middle, high, said = (
            1e3 * row[name] for name in ("low", "measured", "high", "modelled")
        )
        lines.append(
            f"| {row['size']} | {row['cut']} | {row['context']:,} | "
            f"{(row['weights'] + row['cache']) / 2**20:,.0f} MiB | "
            f"{middle:.1f} ms ({low:.1f} to {high:.1f}) | {said:.1f} ms | "
            f"{row['modelled'] / row['measured'] - 1:+.0%} |"
        )
    lines += ["", "| what is modelled | median error | worst |", "|---|--:|--:|"]
    for name, what in TRIES.items():
        middle, worst = errors(rows, name)
        lines.append(f"| {what} | {middle:.0%} | {worst:+.0%} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    figure, axes = figure_and_axes(6.4, 5.2)
    times = [1e3 * row["measured"] for row in rows]
    ends = (0.8 * min(times), 1.2 * max(times))
    axes.plot(ends, ends, color="#555555", lw=1, label="as measured")
    for name, mark in zip(TRIES, "xs^", strict=True):
        axes.plot(times, [1e3 * row[name] for row in rows], mark, ms=6, label=TRIES[name])
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("measured, milliseconds a token")
    axes.set_ylabel("modelled, milliseconds a token")
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.25, lw=0.6)
    save(figure, path)


if __name__ == "__main__":
    _, measured = read()
    print(table(measured))
    plot(measured, HERE / "latency.png")
