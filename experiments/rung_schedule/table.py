"""The table of the rows: rank correlations and final retention, paired over candidates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from autoprune.search.fidelity.correlation import spearman

TURNS = 2000
REFERENCE = "cosine"
HEADS = (
    "| schedule | candidates | weights at the rung | rank correlation with its end "
    "| less cosine's, as they are |",
    "| schedule | candidates | at the rung | averaged | at the end | averaged "
    "| end less cosine's |",
)

Rows = dict[tuple[int, str], dict[str, Any]]
Draw = Sequence[Sequence[int]]
"""Numbers of candidates, a list for each size."""


def _correlation(rows: Rows, draw: Draw, schedule: str, field: str) -> float:
    """Rank correlation of a rung's value with the same schedule's end, mean z over sizes."""
    total = 0.0
    for part in draw:
        here = [rows[number, schedule] for number in part]
        rho = spearman([row[field] for row in here], [row["final"] for row in here])
        most = 1 - 1 / len(part) ** 2
        total += math.atanh(min(max(rho, -most), most))
    return math.tanh(total / len(draw))


def _mean(rows: Rows, draw: Draw, schedule: str, field: str) -> float:
    return float(np.mean([rows[n, schedule][field] for part in draw for n in part]))


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return the table as Markdown; 95 % intervals by bootstrap over candidates within sizes."""
    rows: Rows = {(row["number"], row["schedule"]): row for row in found}
    schedules = list(dict.fromkeys(schedule for _, schedule in rows))

    def compared(schedule: str) -> tuple[list[list[int]], list[list[list[int]]]]:
        """Candidates that both this schedule and the reference recovered, and redraws of them."""
        by_size: dict[float, list[int]] = {}
        for number, name in sorted(rows):
            if name == schedule and (number, REFERENCE) in rows:
                by_size.setdefault(rows[number, name]["knobs"]["size"], []).append(number)
        dice = np.random.default_rng(0)
        parts = list(by_size.values())
        return parts, [[list(dice.choice(p, len(p))) for p in parts] for _ in range(TURNS)]

    def said(what: Callable[[Draw], float], parts: Draw, draws: Sequence[Draw]) -> str:
        low, high = np.quantile([what(draw) for draw in draws], (0.025, 0.975))
        return f"{what(parts):+.3f} [{low:+.3f}, {high:+.3f}]"

    ranks, ends = [HEADS[0], "|---|---|---|---|---|"], [HEADS[1], "|---|---|---|---|---|---|---|"]
    for schedule in schedules:
        parts, draws = compared(schedule)
        count = sum(map(len, parts))
        for field, kind in (("rung", "as they are"), ("rung_average", "averaged")):

            def own(draw: Draw, s: str = schedule, f: str = field) -> float:
                return _correlation(rows, draw, s, f)

            def less(draw: Draw, s: str = schedule, f: str = field) -> float:
                return _correlation(rows, draw, s, f) - _correlation(rows, draw, REFERENCE, "rung")

            same = (schedule, field) == (REFERENCE, "rung")
            gap = "" if same else said(less, parts, draws)
            ranks.append(f"| {schedule} | {count} | {kind} | {said(own, parts, draws)} | {gap} |")

        def gain(draw: Draw, s: str = schedule) -> float:
            return _mean(rows, draw, s, "final") - _mean(rows, draw, REFERENCE, "final")

        means = " | ".join(
            f"{_mean(rows, parts, schedule, field):.3f}"
            for field in ("rung", "rung_average", "final", "final_average")
        )
        gap = "" if schedule == REFERENCE else said(gain, parts, draws)
        ends.append(f"| {schedule} | {count} | {means} | {gap} |")
    return "\n".join([*ranks, "", *ends]) + "\n"
