"""Retention over the share of the backbone removed: a line a method, a panel a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

TITLES = {
    "common": "one common recipe",
    "tuned": "each recipe tuned at the cost of a search",
}
OWN = ("searched", "autoprune")
MARKS = "osD^vP*Xph<>"


def draw(
    tables: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, text_of: Callable[[str], str]
) -> None:
    """Write the plot; methods keep their colours in both panels, AutoPrune is black."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    if not tables:
        return
    figure, axes = plt.subplots(
        1, len(tables), figsize=(6.2 * len(tables), 5.4), sharey=True, squeeze=False
    )
    methods = list(dict.fromkeys(row["method"] for rows in tables.values() for row in rows))
    others = [name for name in methods if name not in OWN]
    colours = {name: f"C{place % 10}" for place, name in enumerate(others)}
    handles: dict[str, Any] = {}
    for axis, (name, rows) in zip(axes[0], tables.items(), strict=True):
        present = [m for m in methods if any(row["method"] == m for row in rows)]
        for place, method in enumerate(present):
            own = [row for row in rows if row["method"] == method]
            shift = 0.6 * (place - (len(present) - 1) / 2)
            values = [100 * row["retention"] for row in own]
            handles[method] = axis.errorbar(
                [100 * row["removed"] + shift for row in own],
                values,
                [
                    [v - 100 * row["low"] for v, row in zip(values, own, strict=True)],
                    [100 * row["high"] - v for v, row in zip(values, own, strict=True)],
                ],
                color=colours.get(method, "black"),
                marker=MARKS[methods.index(method) % len(MARKS)],
                linestyle="-" if method in OWN else "--",
                linewidth=1.6 if method in OWN else 0.9,
                markersize=5,
                capsize=2,
                zorder=3 if method in OWN else 2,
            )
        axis.set_title(TITLES[name])
        axis.set_xlabel("backbone removed, %")
        axis.set_xticks(sorted({round(100 * row["removed"]) for row in rows}))
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("retention on the report split, %")
    shown = [name for name in methods if name in handles]
    figure.legend(
        [handles[name] for name in shown],
        [text_of(name) for name in shown],
        loc="outside lower center" if figure.get_layout_engine() else "lower center",
        ncols=4,
        frameon=False,
        fontsize=9,
    )
    figure.tight_layout(rect=(0, 0.05 + 0.035 * (len(shown) // 4), 1, 1))
    figure.savefig(path, dpi=80)
    plt.close(figure)
