"""Draw the latency that remains over the parameters that remain.

python experiments/real_shapes/plot.py [results-full.jsonl]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from table import PAPER, latencies, middle, models_of, predicted

HERE = Path(__file__).parent
COLOURS = {"layer": "C0", "width": "C1", "any": "C2"}


def main() -> None:
    named = [Path(arg) for arg in sys.argv[1:]]
    path = next(
        p for p in [*named, HERE / "results-full.jsonl", HERE / "results-cpu.jsonl"] if p.is_file()
    )
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    models = [m for m in models_of(rows) if "dense" in latencies(rows, m)]
    figure, axes = plt.subplots(
        1, len(models), figsize=(5 * len(models), 4.4), sharey=True, squeeze=False
    )
    for axis, model in zip(axes[0], models, strict=True):
        draw(axis, rows, model)
    axes[0, 0].set_ylabel("decode latency that remains")
    figure.tight_layout()
    figure.savefig(path.with_suffix(".png"), dpi=80)


def draw(axis, rows: list[dict], model: str) -> None:
    found = latencies(rows, model)
    ahead = predicted(found)
    dense = middle(found["dense"]["decode_ms"])
    for kind, colour in COLOURS.items():
        own = sorted(
            (row["fraction"], row["decode_ms"], ahead.get(case))
            for case, row in found.items()
            if case.startswith(kind) or case == "dense"
        )
        x = [share for share, _, _ in own]
        axis.plot(x, [middle(ms) / dense for _, ms, _ in own], f"{colour}o-", label=kind)
        axis.vlines(
            x,
            [sorted(ms)[len(ms) // 4] / dense for _, ms, _ in own],
            [sorted(ms)[-1 - len(ms) // 4] / dense for _, ms, _ in own],
            colour,
            alpha=0.5,
        )
        if ahead:
            axis.plot(x, [ms / dense for _, _, ms in own], f"{colour}--", alpha=0.5)
        if model == "llava-1.5-7b" and kind in PAPER:
            shares = [
                found[f"{kind}-{removed:.0%}"]["fraction"]
                for removed in PAPER[kind]
                if f"{kind}-{removed:.0%}" in found
            ]
            study = list(PAPER[kind].values())[: len(shares)]
            axis.plot(shares, study, f"{colour}x", label=f"{kind}, in the study")
    axis.plot([0.3, 1], [0.3, 1], "0.7", linewidth=1, zorder=0)
    axis.set_title(f"{model} (dashed: forecast)", fontsize=10)
    axis.set_xlabel("parameters that remain")
    axis.legend(fontsize=8)


if __name__ == "__main__":
    main()
