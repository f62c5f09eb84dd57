"""Which learning rate recovers most, by scope and share of the backbone removed.

Run from the project's root:

    python experiments/recovery_rates/run.py

Appends one row a recovery to results.csv beside itself (an interrupted run goes on where it
was) and prints the mean accuracy of every cell.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.cost.parameters import size_of
from autoprune.data.encoding import EncodedSet, batches, encode
from autoprune.models.arrays import state_arrays
from autoprune.models.loading import load_model
from autoprune.models.vision import decode, embed, head, vision_features
from autoprune.pruning.allocation import allocate
from autoprune.pruning.importance import measure
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.scores import scores
from autoprune.pruning.surgery import prune
from autoprune.recovery.loop import Recovery, RecoveryDiverged
from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.recovery.teacher import CachedTeacher, build_teacher
from autoprune.zoo.model import embedded_path
from autoprune.zoo.splits import load_split

HERE = Path(__file__).parent
REMOVED = (0.15, 0.3, 0.5, 0.7)
UNIQUE = 500  # different recovery samples, 5 % of what the search has
RATES = {
    "full": (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3),
    "lora": (4e-4, 8e-4, 1.6e-3, 3.2e-3, 6.4e-3, 1.28e-2),
    "projector": (4e-4, 8e-4, 1.6e-3, 3.2e-3, 6.4e-3, 1.28e-2),
}
COLUMNS = ("removed", "scope", "rate", "seed", "passes", "before", "after", "loss", "seconds")


@torch.no_grad()
def accuracy(model: Any, samples: EncodedSet) -> float:
    """Return the share of questions of which every answer token is predicted right."""
    right: list[np.ndarray] = []
    for batch in batches(samples, np.arange(len(samples)), 64):
        features = vision_features(model, batch.pixel_values)
        states = decode(
            model,
            embed(model, batch.input_ids, features),
            batch.attention_mask,
            batch.position_ids,
        )
        at = batch.answer_index
        hits = head(model)(states[at.rows, at.cols]).argmax(-1) == at.targets
        # The end token is the second of every answer here, and follows from the first.
        right.append(hits.reshape(-1, 2).all(1).numpy())
    return float(np.concatenate(right).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=embedded_path())
    parser.add_argument("--passes", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--removed", type=float, nargs="*", default=list(REMOVED))
    parser.add_argument("--scopes", nargs="*", default=list(RATES))
    parser.add_argument("--out", type=Path, default=HERE / "results.csv")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(asked.model)
    dense, spec, arrays = loaded.model, loaded.spec, state_arrays(loaded.model)
    train = encode(load_split("train", UNIQUE * 4), loaded.processor)
    calibration = encode(load_split("calibration", 128), loaded.processor)
    held_out = encode(load_split("search", 256), loaded.processor)
    teacher = CachedTeacher(build_teacher(dense, train))
    ranked = scores(measure(dense, calibration, np.arange(len(calibration))))
    print(f"dense accuracy {accuracy(dense, held_out):.3f}", flush=True)
    done = read(asked.out)
    for seed, removed, scope in itertools.product(range(asked.seeds), asked.removed, asked.scopes):
        target = round(spec.outside_params + (1 - removed) * spec.backbone_params)
        plan = allocate(spec, ranked, Allocation(axis="hybrid", depth_share=0.4), target)
        for rate in RATES[scope]:
            key = (str(removed), scope, str(rate), str(seed), str(asked.passes))
            if key in done:
                continue
            model = prune(loaded.config, arrays, plan)
            before = accuracy(model, held_out)
            recipe = RecoveryRecipe(
                sft=0.5,
                hidden=0.5,
                scope=scope,
                learning_rate=rate,
                data_fraction=0.25,
                sample_passes=asked.passes,
                seed=seed,
            )
            started = time.perf_counter()
            try:
                recovery = Recovery(model, train, teacher, recipe)
                loss = recovery.run().loss
                after = accuracy(recovery.finish(), held_out)
            except RecoveryDiverged:
                loss, after = float("nan"), float("nan")
            seconds = time.perf_counter() - started
            row = [*key, f"{before:.4f}", f"{after:.4f}", f"{loss:.4f}", f"{seconds:.1f}"]
            append(asked.out, row)
            share = size_of(spec, plan).backbone_removed
            print(
                f"{share:.3f} {scope:9} {rate:.1e} seed {seed}: {before:.3f} -> {after:.3f}",
                flush=True,
            )
    show(asked.out)


def read(path: Path) -> set[tuple[str, ...]]:
    if not path.exists():
        return set()
    with path.open() as stream:
        return {tuple(row[name] for name in COLUMNS[:5]) for row in csv.DictReader(stream)}


def append(path: Path, row: list[str]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if fresh:
            writer.writerow(COLUMNS)
        writer.writerow(row)


def show(path: Path) -> None:
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    for scope in dict.fromkeys(row["scope"] for row in rows):
        print(f"\n| {scope}, removed | " + " | ".join(f"{r:.1e}" for r in RATES[scope]) + " |")
        print("|---" * (len(RATES[scope]) + 1) + "|")
        for removed in REMOVED:
            cells = [
                [
                    float(row["after"])
                    for row in rows
                    if (row["scope"], float(row["removed"]), float(row["rate"]))
                    == (scope, removed, rate)
                ]
                for rate in RATES[scope]
            ]
            means = " | ".join(f"{np.mean(cell):.3f}" if cell else "–" for cell in cells)
            print(f"| {removed:.0%} | {means} |")


if __name__ == "__main__":
    main()
