"""Which learning-rate schedule makes an intermediate rung rank best, at no loss at the end?

    python -m experiments.rung_schedule.run --home /tmp/home

Candidates are drawn from the default space at three sizes; those of seed s have numbers from
100 s on. Each is recovered once under every
schedule (same plan, data and order) and scored at a third of its updates, with its weights as
they are and with an exponential average of them, and at the end.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from experiments.cells import Cell, Row, run_cells

HERE = Path(__file__).parent
ROWS = HERE / "rows.jsonl"

RUNG = 0.33
SIZES = (0.0, 0.5, 1.0)
DECAY = 0.8
"""Of the averaged weights: a horizon of five updates, a third of those behind the rung."""

STABLE = 0.75
"""Share of the updates before a warmup-stable-decay schedule falls."""


def _fall(part: float) -> float:
    return 1.0 - max(0.0, part - STABLE) / (1.0 - STABLE)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda part: 0.5 * (1 + math.cos(math.pi * part)),
    "linear": lambda part: 1.0 - part,
    "stable-decay": _fall,
}
"""Factor of the learning rate behind the warmup, by the share of the updates done."""


def rate(shape: Callable[[float], float]) -> Callable[[Any, int], float]:
    """Return a stand-in for ``recovery.schedule.learning_rate`` with another fall."""

    def learning_rate(recipe: Any, step: int) -> float:
        warm = math.ceil(recipe.warmup * recipe.steps)
        if step < warm:
            return float(recipe.learning_rate * (step + 1) / warm)
        return float(recipe.learning_rate * shape((step - warm) / max(1, recipe.steps - warm)))

    return learning_rate


class Average:
    """Keeps an exponential average of a recovery's parameters, and can lend it."""

    def __init__(self, recovery: Any) -> None:
        self.recovery = recovery
        self.values: dict[str, torch.Tensor] | None = None

    def update(self) -> None:
        """Take in the parameters behind an update."""
        now = {name: p.detach().clone() for name, p in self.recovery.parameters.items()}
        if self.values is None:
            self.values = now
            return
        for name, value in now.items():
            self.values[name].mul_(DECAY).add_(value, alpha=1 - DECAY)

    def swap(self) -> None:
        """Exchange the parameters with their average."""
        assert self.values is not None
        with torch.no_grad():
            for name, parameter in self.recovery.parameters.items():
                held = parameter.detach().clone()
                parameter.copy_(self.values[name])
                self.values[name] = held


def settings_of(home: str) -> Any:
    from autoprune.search.settings import make_settings

    return make_settings({"name": "rung-schedule", "budgets": ("60%",), "home": home})


def open_bench(home: str) -> Any:
    """Open a worker's tools; the first process prepares, the others find it cached."""
    from autoprune.search.knobs.space import load_space
    from autoprune.search.problem import PipelineProblem
    from autoprune.search.workers.session import resources_of

    settings = settings_of(home)
    prepared = PipelineProblem().prepare(settings, load_space(settings.space), print)
    return prepared.work.open(prepared.arrays, resources_of(settings))


def draw(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return the knobs of ``count`` candidates a size, drawn uniformly."""
    import optuna

    from autoprune.search.knobs.space import load_space

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    domains = load_space("hybrid").distributions()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    found = []
    for size in SIZES:
        for _ in range(count):
            found.append({**study.ask(fixed_distributions=domains).params, "size": size})
    return found


def work(bench: Any, cell: Cell) -> Row:
    """Recover one candidate under one schedule."""
    from autoprune.recovery import loop

    what: Mapping[str, Any] = cell.what
    vars(loop)["learning_rate"] = rate(SCHEDULES[what["schedule"]])
    run = bench.bench.start(bench.candidate(what["knobs"], what["number"] // 100))
    average = Average(run.recovery)
    run.recovery.on_step = lambda point: average.update()
    exam = run.assets.exams["search"].dense

    def score() -> float:
        from autoprune.evaluation.retention import retention

        return round(float(retention(run.score("search"), exam).value), 5)

    def averaged() -> float:
        average.swap()
        found = score()
        average.swap()
        return found

    pruned = run.proxy()
    run.recovery.run(RUNG)
    at_rung = {"rung": score(), "rung_kl": run.proxy(), "rung_average": averaged()}
    run.recovery.run(1.0)
    return {
        "pruned_kl": round(float(pruned), 5),
        **at_rung,
        "final": score(),
        "final_average": averaged(),
    }


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", required=True, help="where the dense model is prepared")
    parser.add_argument("--count", type=int, default=6, help="candidates a size")
    parser.add_argument("--seed", type=int, default=0, help="of candidates, data and order")
    parser.add_argument("--schedules", nargs="+", default=list(SCHEDULES), choices=SCHEDULES)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    cells = [
        Cell(f"{number:02d}-{schedule}", {"number": number, "schedule": schedule, "knobs": knobs})
        for number, knobs in enumerate(draw(asked.count, asked.seed), 100 * asked.seed)
        for schedule in asked.schedules
    ]
    rows = run_cells(ROWS, cells, open_bench, asked.home, work, asked.workers)
    from experiments.rung_schedule.table import table

    text = table(list(rows.values()))
    (HERE / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
