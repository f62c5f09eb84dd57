"""Would stricter halving save more? Random search's own trials, replayed in drawn orders.

    python -m experiments.search_quality.replay

Each trial of random search went to its end and was scored at every rung, so any rule of stopping
can be played on them afterwards. What a stopped trial costs is taken as the share of a whole trial
that stopped ones cost in the searches with multi-fidelity.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.search.fidelity.correlation import Unstopped
from autoprune.search.fidelity.halving import Arrival, Halving
from experiments.cells import read_rows
from experiments.pages import table
from experiments.search_quality.measures import cost_of, volume

HERE = Path(__file__).parent
COSTS = (0.024, 0.15, 0.35, 1.0)
"""Cost up to each rung, as a share of a whole trial's: measured on stopped trials."""

RULES = ((0.25, 0.5), (0.25, 2 / 3), (0.25, 0.75), (0.5, 2 / 3))
"""Most that the first rung stops, and the later ones; the first pair is the default."""

Trial = dict[str, Any]


def pool(path: Path) -> list[Trial]:
    """Return random search's trials of full fidelity, each with its own cost."""
    found = []
    for row in read_rows(path).values():
        if row["arm"] != "random":
            continue
        before = 0.0
        for trial in sorted(row["trials"], key=lambda t: float(t["spent"])):
            if trial["search"] is not None:
                found.append({**trial, "cost": trial["spent"] - before})
            before = trial["spent"]
    return found


def replay(trials: Sequence[Trial], budget: float, halving: Halving | None) -> list[Trial]:
    """Return the trials that end within ``budget`` FLOPs, with what was spent by then."""
    spent, ended = 0.0, []
    for number, trial in enumerate(trials):
        if spent >= budget:
            break
        rungs = trial["values"][:-1] if halving else []
        share = COSTS[-1]
        for rung, value in enumerate(rungs):
            arrival = Arrival(number, trial["size"], value, trial["axis"])
            if halving and halving.judge(rung, arrival).stop:
                share = COSTS[rung]
                break
        spent += share * trial["cost"]
        if share == COSTS[-1]:
            if halving and halving.exempt(number):
                values = dict(enumerate(rungs))
                halving.end(Unstopped(number, trial["size"], values, trial["search"]))
            ended.append({**trial, "spent": spent})
    return ended


def compared(orders: Sequence[Sequence[Trial]], budget: float) -> list[dict[str, str]]:
    """Return one row a rule: what it reaches, and what 95 % of the plain end costs it."""
    plain = [replay(order, budget, None) for order in orders]
    goals = [0.95 * volume(trials, float("inf")) for trials in plain]
    cost = [cost_of(t, lambda v, g=g: v >= g) for t, g in zip(plain, goals, strict=True)]
    rows = []
    for first, later in RULES:
        halved = [
            replay(order, budget, Halving(seed=i, first_share=first, later_share=later))
            for i, order in enumerate(orders)
        ]
        mine = [cost_of(t, lambda v, g=g: v >= g) for t, g in zip(halved, goals, strict=True)]
        ratio = np.mean([m or 2 * budget for m in mine]) / np.mean([c or budget for c in cost])
        volumes = [volume(t, float("inf")) for t in halved]
        ended = float(np.mean([len(t) for t in halved]))
        rows.append(
            {
                "stopped at most, first and later rungs": f"{first:.0%}, {later:.0%}",
                "trials that end": f"{ended:.0f}",
                "hypervolume": f"{np.mean(volumes):.4f}",
                "cost of 95 %, of that without": f"{ratio:.2f}",
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=100, help="orders that are drawn")
    parser.add_argument("--flops", type=float, default=1.2e13, help="of one search")
    given = parser.parse_args()
    trials, rng = pool(HERE / "searches-seed0.jsonl"), np.random.default_rng(0)
    orders = [[trials[i] for i in rng.permutation(len(trials))] for _ in range(given.orders)]
    print(table(compared(orders, given.flops)))


if __name__ == "__main__":
    main()
