"""Which sampler proposes best within the trials that a search has: hypervolume on formulas.

The knobs are those of the space ``hybrid``. Retention is a formula of the knobs with a random
optimum, random weights and one interaction; no model is trained. Two trials run at once, as in
a search with two workers.

    python experiments/sampler_choice/run.py --seeds 12
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from autoprune.search.fronts.front import hypervolume
from autoprune.search.knobs.space import load_space
from autoprune.search.sampling.samplers import derived_seed

SPACE = load_space("hybrid").distributions()
FORMULAS = 3


def score(knobs: dict[str, Any], formula: int) -> tuple[float, float]:
    """Return (size, retention) of knobs under one of the formulas."""
    rng = np.random.default_rng(formula)
    best = {name: rng.uniform(0.2, 0.8) for name in sorted(SPACE)}
    weight = {name: rng.uniform(0.02, 0.25) for name in sorted(SPACE)}
    loss = 0.0
    for name, value in sorted(knobs.items()):
        domain: Any = SPACE[name]
        if name == "size":
            continue
        if hasattr(domain, "choices"):
            ranks = rng.permutation(len(domain.choices)) / max(1, len(domain.choices) - 1)
            loss += 0.5 * weight[name] * ranks[list(domain.choices).index(value)]
            continue
        place = (value - domain.low) / (domain.high - domain.low)
        if domain.log:
            place = np.log(value / domain.low) / np.log(domain.high / domain.low)
        loss += 2 * weight[name] * (place - best[name]) ** 2
    loss += 0.15 * abs(knobs["depth_share"] - knobs["temperature"]) * (knobs["axis"] == "hybrid")
    size = 0.36 + 0.24 * knobs["size"]
    return size, 1.0 - 1.2 * (0.65 - size) - 0.45 * loss


def play(build: Callable[[int, int], BaseSampler], trials: int, seed: int, workers: int) -> float:
    """Return the hypervolume that a sampler reaches."""
    study = optuna.create_study(directions=["minimize", "maximize"])
    points, running = [], []

    def end(trial: optuna.Trial) -> None:
        points.append(score(trial.params, seed % FORMULAS))
        study.tell(trial, list(points[-1]))

    for number in range(trials):
        study.sampler = build(derived_seed(seed, number), trials)
        running.append(study.ask(SPACE))
        if len(running) >= workers:
            end(running.pop(0))
    for trial in running:
        end(trial)
    return hypervolume(points)


def startup(trials: int) -> int:
    return int(np.clip(trials // 4, 4, 10))


def tpe(multivariate: bool, gamma: float | None = None) -> Callable[[int, int], BaseSampler]:
    def build(seed: int, trials: int) -> BaseSampler:
        return TPESampler(
            seed=seed,
            n_startup_trials=startup(trials),
            multivariate=multivariate,
            constant_liar=True,
            gamma=None if gamma is None else lambda n: int(np.ceil(gamma * n)),
        )

    return build


ARMS: dict[str, Callable[[int, int], BaseSampler]] = {
    "random": lambda seed, trials: RandomSampler(seed=seed),
    "tpe, independent (default)": tpe(False),
    "tpe, independent, upper quarter good": tpe(False, 0.25),
    "tpe, multivariate": tpe(True),
    "tpe, multivariate, upper quarter good": tpe(True, 0.25),
    "nsga2": lambda seed, trials: NSGAIISampler(
        seed=seed, population_size=int(np.clip(trials // 4, 4, 50))
    ),
    "gp": lambda seed, trials: GPSampler(seed=seed, n_startup_trials=startup(trials)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--trials", type=int, nargs="+", default=[24, 60])
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    result = json.loads(asked.out.read_text()) if asked.out.is_file() else {}
    for trials in asked.trials:
        for arm in asked.arms:
            key = f"{trials} trials, {arm}"
            if len(result.get(key, [])) >= asked.seeds:
                continue
            result[key] = [play(ARMS[arm], trials, seed, 2) for seed in range(asked.seeds)]
            asked.out.write_text(json.dumps(result, indent=1))
            print(f"{key}: {np.mean(result[key]):.4f} ± {np.std(result[key]):.4f}", flush=True)


if __name__ == "__main__":
    main()
