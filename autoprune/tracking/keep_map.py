"""What each point of a front keeps of every layer, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.tracking.plots import PALE, figure_and_axes, save
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import KeepMap, TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_PANELS = 12
"""Keep maps side by side that can still be read."""


def keep_map_png(
    summary: SearchSummary, records: Sequence[TrialRecord], path: Path, *, columns: int = MAX_PANELS
) -> None:
    """Draw what each front point keeps of each layer's attention and MLP.

    At most ``columns`` points are drawn, spread evenly over the front.
    """
    keeps = {record.trial: record.keep for record in records}
    shown = [(p, keep) for p in summary.front if (keep := keeps.get(p.trial)) is not None]
    if len(shown) > columns:
        picked = np.linspace(0, len(shown) - 1, columns).round().astype(int)
        shown = [shown[i] for i in picked]
    layers = max((len(keep.heads) for _, keep in shown), default=1)
    height = float(np.clip(0.27 * layers + 1.9, 3.2, 14))
    figure, _ = figure_and_axes(max(4.6, 1.02 * len(shown) + 2.2), height, axes=False)
    if not shown:
        figure.text(0.5, 0.5, "no confirmed front yet", ha="center", color=PALE)
        save(figure, path)
        return
    grid = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    image: Any = None
    for axes, (point, keep) in zip(grid, shown, strict=True):
        image = _draw_keep(axes, point, keep, text=layers <= 40)
    grid[0].set_ylabel("layer of the dense backbone")
    bar = figure.colorbar(image, ax=list(grid), pad=0.02, shrink=0.8, aspect=20 + layers / 2)
    bar.set_label("share kept", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(
        f"{summary.name}: what each front point keeps of every layer (× = removed)".lstrip(": "),
        fontsize=11,
    )
    save(figure, path)


def _draw_keep(axes: Axes, point: FrontPoint, keep: KeepMap, *, text: bool) -> Any:
    shares = np.array([keep.attention, keep.mlp]).T
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (layer, kind), share in np.ndenumerate(shares):
        gone = share == 0
        if gone:
            box = {"xy": (kind - 0.5, layer - 0.5), "width": 1, "height": 1}
            axes.add_patch(_rectangle(**box))
        if gone or text:
            mark = "×" if gone else f"{100 * share:.0f}"
            colour = "#555555" if gone else "white" if share < 0.55 else "black"
            axes.text(kind, layer, mark, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks([0, 1], ["attn", "MLP"], fontsize=8)
    step = 1 if len(shares) <= 40 else 4
    axes.set_yticks(range(0, len(shares), step))
    axes.tick_params(length=0, labelsize=8)
    axes.set_xticks([0.5], minor=True)
    axes.set_yticks(np.arange(0.5, len(shares) - 1), minor=True)
    axes.grid(which="minor", color="white", lw=0.8)
    axes.tick_params(which="minor", length=0)
    axes.set_title(
        f"{point.trial}\n{point.axis}\n{point.fraction:.0%}  R {point.retention.mean:.2f}",
        fontsize=8,
    )
    return image


def _rectangle(**box: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(facecolor="#e4e4e4", edgecolor="white", lw=0.8, **box)
