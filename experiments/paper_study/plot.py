"""Draw the grid: retention by size, the worth of data, and the findings' differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from experiments.paper_study.grid import DATA, RECOVERIES, SIZES, STUDY_AXES, VARIANTS

Row = Mapping[str, Any]

COLOURS = (
    "#999999",
    "#56b4e9",
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#e69f00",
    "#cc79a7",
    "#000000",
    "#882255",
)
MARKS = ("x", "o", "s", "D", "^", "v", "<", ">", "P")
LOOKS = {name: (COLOURS[place], MARKS[place]) for place, name in enumerate(RECOVERIES)}
VERDICTS = {"holds": "#0072b2", "does not hold": "#d55e00", "undecided": "#999999"}
TICKS = (-50, -20, -10, -5, -2, 0, 2, 5, 10, 20)
DATA_SHOWN = 0.2
PANELS = {
    "depth": "depth: layers by block influence, trimmed to size",
    "width": "width: the study's window (at 60 % all layers)",
}


def draw(table: Sequence[Row], verdicts: Sequence[Row], folder: Path) -> None:
    """Write retention.png, data.png and findings.png."""
    _retention(table, folder / "retention.png")
    _data(table, folder / "data.png")
    _forest(verdicts, folder / "findings.png")


def _retention(table: Sequence[Row], path: Path) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained", sharey=True)
    for axes, axis in zip(panels, STUDY_AXES, strict=True):
        for place, recovery in enumerate(RECOVERIES):
            data = 0.0 if recovery == "none" else DATA_SHOWN
            rows = _pick(table, axis=axis, recovery=recovery, data=data, variant=VARIANTS[0])
            _line(axes, rows, "size", recovery, shift=0.6 * (place - len(RECOVERIES) / 2))
        if axis == "width":
            rows = _pick(table, axis="uniform", recovery="none")
            _line(axes, rows, "size", "none", shift=-3.3, style=":", label="none, uniform widths")
            axes.legend(*_last(axes), frameon=False, fontsize=8, loc="lower left")
        axes.set_title(PANELS[axis], fontsize=10)
        axes.set_xticks([100 * size for size in SIZES])
        axes.set_xlabel("share of the backbone removed (%)")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("retention on the report split (%)")
    panels[0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.suptitle("One pass over 20 % of the data, mean of seeds, 95 % intervals", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _data(table: Sequence[Row], path: Path) -> None:
    shades = ("#56b4e9", "#0072b2", "#e69f00", "#d55e00")
    figure, panels = plt.subplots(2, 2, figsize=(9, 7), layout="constrained", sharey="row")
    for row, axis in enumerate(STUDY_AXES):
        for column, variant in enumerate(VARIANTS):
            axes = panels[row][column]
            for size, shade, mark in zip(SIZES, shades, MARKS[1:], strict=False):
                for recovery, style in (("SFT + L2", "-"), ("projector SFT", ":")):
                    rows = _pick(table, axis=axis, recovery=recovery, size=size, variant=variant)
                    if not rows:
                        continue
                    rows = sorted(rows, key=lambda r: r["unique"])
                    low = [100 * (r["retention"] - r["low"]) for r in rows]
                    high = [100 * (r["high"] - r["retention"]) for r in rows]
                    axes.errorbar(
                        [100 * r["unique"] for r in rows],
                        [100 * r["retention"] for r in rows],
                        (low, high),
                        color=shade,
                        marker=mark,
                        linestyle=style,
                        capsize=2,
                        markersize=5,
                        label=f"{recovery}, {100 * size:.0f} % removed",
                    )
            axes.set_xscale("log")
            axes.set_xticks([100 * d for d in DATA], [f"{100 * d:g}" for d in DATA])
            axes.minorticks_off()
            axes.set_xlim(4, 125)
            axes.set_title(f"{axis}, {variant}", fontsize=10)
            axes.grid(alpha=0.3)
        panels[row][0].set_ylabel("retention (%)")
    for axes in panels[1]:
        axes.set_xlabel("unique recovery samples (% of 2,000)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=4, fontsize=8, frameon=False, loc="outside lower center")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _forest(verdicts: Sequence[Row], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(10.5, 0.8 + 0.24 * len(verdicts)), layout="constrained")
    for place, row in enumerate(verdicts):
        mean, low, high = (100 * row[name] for name in ("difference", "low", "high"))
        colour = VERDICTS[row["verdict"]]
        axes.errorbar(
            mean,
            place,
            xerr=[[mean - low], [high - mean]],
            fmt="o",
            color=colour,
            capsize=2,
            markersize=4,
        )
        if row["margin"]:
            axes.plot(-100 * row["margin"], place, marker="|", color="black", markersize=9)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(verdicts)), [row["finding"] for row in verdicts], fontsize=8)
    for place in range(1, len(verdicts)):
        if verdicts[place]["finding"][0] != verdicts[place - 1]["finding"][0]:
            axes.axhline(place - 0.5, color="#cccccc", linewidth=0.6)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xscale("symlog", linthresh=5)
    axes.set_xticks(TICKS, [f"{tick:+d}" if tick else "0" for tick in TICKS])
    axes.minorticks_off()
    axes.set_xlabel(
        "points of retention, linear up to 5; right of 0 (where there is a margin: of the bar) "
        "the finding holds"
    )
    axes.grid(axis="x", alpha=0.3)
    for name, colour in VERDICTS.items():
        axes.plot([], [], "o", color=colour, label=name)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _last(axes: Axes) -> tuple[list[Any], list[str]]:
    """Return handle and label of what was drawn last: the rest is in the other panel's legend."""
    handles, labels = axes.get_legend_handles_labels()
    return handles[-1:], labels[-1:]


def _line(
    axes: Axes,
    rows: Sequence[Row],
    along: str,
    name: str,
    shift: float,
    style: str | None = None,
    label: str | None = None,
) -> None:
    rows = sorted(rows, key=lambda r: r[along])
    colour, mark = LOOKS[name]
    axes.errorbar(
        [100 * r[along] + shift for r in rows],
        [100 * r["retention"] for r in rows],
        (
            [100 * (r["retention"] - r["low"]) for r in rows],
            [100 * (r["high"] - r["retention"]) for r in rows],
        ),
        color=colour,
        marker=mark,
        markersize=4,
        linewidth=1,
        linestyle=style or ("--" if name == "none" else "-"),
        capsize=2,
        label=label or name,
    )


def _pick(table: Sequence[Row], **wanted: Any) -> list[Row]:
    return [row for row in table if all(row[name] == value for name, value in wanted.items())]
