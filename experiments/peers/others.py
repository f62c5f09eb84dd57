"""What other experiments measured of the same sizes: AutoPrune's searches, and the study's grid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprune.evaluation.scores import TaskScores
from experiments.cells import Row, by, read_rows, unpack_scores
from experiments.peers.catalogue import REMOVED

SEARCHED = "searched"
"""The name of what AutoPrune's searches found, among methods."""

GRIDS = {"grid": "any", "grid-800": "at most 800 passes"}
"""The study's grid among methods, and what its points are chosen from in their file."""

OTHERS = {
    SEARCHED: "AutoPrune, searched",
    "grid": "the study's grid, its best",
    "grid-800": "the same, of at most 800 passes",
}
"""What they are called in tables."""

Key = tuple[str, float]
"""A method and a share of the backbone removed."""


@dataclass(frozen=True)
class Runs:
    """What stands behind a figure.

    Attributes:
        params: of the whole model, the largest where seeds differ.
        scores: one a seed.
        before: of the same plans without recovery, where they were scored.
        kl: nats an answer token without recovery.
        flops: that finding plan and recipe took, on average.
    """

    params: int
    scores: tuple[TaskScores, ...]
    before: tuple[TaskScores, ...] = ()
    kl: float | None = None
    flops: float = 0.0


def searched_runs(path: Path, arm: str, dense: TaskScores) -> dict[Key, Runs]:
    """Return what AutoPrune's searches found, trained again: one run of each search.

    Args:
        path: rows with ``arm``, ``search_seed``, ``target`` (share of the backbone removed),
            ``seed``, ``params``, ``answers`` (packed, on the same images of ``report``) and
            ``search_flops`` (of a search over all sizes).
        arm: whose.
        dense: the dense model's scores.
    """
    rows = [row for row in read_rows(path).values() if row["arm"] == arm]
    found = {}
    for (removed,), group in by(rows, "target").items():
        chosen = spread(group, "search_seed", "seed")
        found[SEARCHED, float(removed)] = Runs(
            max(row["params"] for row in chosen),
            tuple(unpack_scores(row["answers"], dense) for row in chosen),
            flops=sum(row["search_flops"] for row in chosen) / len(chosen) / len(REMOVED),
        )
    return found


def grid_runs(path: Path, dense: TaskScores) -> dict[Key, Runs]:
    """Return the best points of the study's grid at each size, as that experiment measured them."""
    best = json.loads(path.read_text())
    found = {}
    for method, among in GRIDS.items():
        for removed in REMOVED:
            if (row := best.get(f"{removed:g} {among}")) is not None:
                scores = tuple(unpack_scores(row["answers"][s], dense) for s in row["answers"])
                found[method, removed] = Runs(row["params"], scores)
    return found


def spread(rows: Sequence[Row], outer: str, inner: str) -> list[Row]:
    """Return one row of each value of ``outer``, or all rows of the first where there are few.

    A plan, a tuning or a search that is repeated is what seeds are of: rows of one of them share
    it and are no repetitions.
    """
    groups = by(sorted(rows, key=lambda row: (row[outer], row[inner])), outer)
    if len(groups) < 3:
        return next(iter(groups.values()))
    return [group[place % len(group)] for place, group in enumerate(groups.values())]
