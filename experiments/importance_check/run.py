"""Which importance is worth trusting on the embedded model? No recovery anywhere.

python experiments/importance_check/run.py
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from autoprune.cost.parameters import size_of
from autoprune.data.encoding import EncodedSet, batches, encode
from autoprune.evaluation.retention import bootstrap, retention
from autoprune.evaluation.scores import TaskScore, TaskScores
from autoprune.models.arrays import state_arrays
from autoprune.models.loading import load_model
from autoprune.models.shape import BackboneSpec
from autoprune.models.vision import decode, embed, head, vision_features
from autoprune.pruning.allocation import allocate
from autoprune.pruning.importance import measure
from autoprune.pruning.knobs import BASELINES, Allocation
from autoprune.pruning.plan import PruningPlan, dense_plan
from autoprune.pruning.scores import CRITERIA, Importance, UnitScores, scores
from autoprune.pruning.surgery import prune
from autoprune.zoo import EMBEDDED, FAMILIES, embedded_path, load_split

HERE = Path(__file__).parent
SEEDS = (0, 1, 2, 3, 4)
CALIBRATION = 48
Scorer = Callable[[int], UnitScores]
Case = tuple[str, float, Allocation, Scorer]
HALFWAY = Allocation(axis="width", temperature=0.5)


class Judge:
    """Scores a plan by the answers that its model gives, on one split."""

    def __init__(self, ref: str, split: str, images: int) -> None:
        self.loaded = load_model(ref, named={EMBEDDED: embedded_path})
        self.arrays = state_arrays(self.loaded.model)
        self.samples = list(load_split(split, images))
        self.encoded = encode(self.samples, self.loaded.processor)
        self.features = self.features_of(self.encoded)
        self.dense = self._score(self.loaded.model)

    @property
    def spec(self) -> BackboneSpec:
        return self.loaded.spec

    def features_of(self, encoded: EncodedSet) -> torch.Tensor:
        assert encoded.pixel_values is not None
        pixels = torch.from_numpy(encoded.pixel_values.astype(np.float32))
        return torch.cat([vision_features(self.loaded.model, part) for part in pixels.split(64)])

    def score(self, plan: PruningPlan) -> TaskScores:
        return self._score(prune(self.loaded.config, self.arrays, plan, spec=self.spec))

    @torch.no_grad()
    def _score(self, model: torch.nn.Module) -> TaskScores:
        """A question is right if every answer token but the end is the likeliest one."""
        right: dict[tuple[int, int], bool] = defaultdict(lambda: True)
        end = self.loaded.processor.tokenizer.eos_token_id
        for batch in batches(self.encoded, range(len(self.samples)), 64, pixels=False):
            embeds = embed(model, batch.input_ids, self.features[batch.images])
            hidden = decode(model, embeds, batch.attention_mask, batch.position_ids)
            rows, cols, targets = batch.answer_index
            said = head(model)(hidden[rows, cols]).argmax(-1)
            places = self.encoded.offsets[batch.rows[rows].numpy()] + cols.numpy()
            turns = self.encoded.segments[places] - 1
            for row, turn, hit, target in zip(
                batch.rows[rows].tolist(), turns, (said == targets).tolist(), targets, strict=True
            ):
                if target != end:
                    right[row, turn] &= hit
        found: dict[str, list[tuple[int, float]]] = {name: [] for name in FAMILIES}
        for (row, turn), hit in right.items():
            found[self.samples[row].turns[turn].source].append((row, float(hit)))
        tasks = []
        for name, pairs in found.items():
            values = np.array([value for _, value in pairs])
            images = np.array([str(row) for row, _ in pairs])
            docs = np.array([f"{name}-{row}-{i}" for i, (row, _) in enumerate(pairs)])
            chance = FAMILIES[name].chance
            mean = float(values.mean())
            tasks.append(TaskScore(name, "accuracy", chance, mean, docs, images, values))
        return TaskScores(tuple(tasks))


def calibrate(judge: Judge, split: str) -> list[Importance]:
    """Importance of each seed: disjoint calibration images."""
    data = load_split(split, CALIBRATION * len(SEEDS))
    encoded = encode(data, judge.loaded.processor)
    features = judge.features_of(encoded)
    rows = [range(CALIBRATION * seed, CALIBRATION * (seed + 1)) for seed in SEEDS]
    return [measure(judge.loaded.model, encoded, part, features=features) for part in rows]


def at_random(like: Importance, seed: int) -> UnitScores:
    """Scores without meaning, of the same shape."""
    rng = np.random.default_rng(seed)
    return UnitScores(*(rng.random(x.shape) for x in vars(scores(like)).values()))


def by_criterion(held_out: list[Importance], train: list[Importance]) -> Iterator[Case]:
    """The same cuts by every criterion: uniform, half blended, and one global ranking."""
    cuts = (
        ("uniform width", 0.3, BASELINES["width"]),
        ("uniform width", 0.5, BASELINES["width"]),
        ("temperature 0.5", 0.5, HALFWAY),
        ("global", 0.5, BASELINES["global"]),
    )
    sources: list[tuple[str, Scorer]] = [("random", lambda s: at_random(held_out[0], s))]
    for name in CRITERIA:
        sources.append((name, lambda s, n=name: scores(held_out[s], n)))
    for name in ("taylor", "weight_taylor"):
        sources.append((f"{name} on train", lambda s, n=name: scores(train[s], n)))
    for weight, which in ((0.0, "image"), (1.0, "text")):
        for name in ("taylor", "activation"):
            scorer = lambda s, n=name, w=weight: scores(held_out[s], n, w)  # noqa: E731
            sources.append((f"{name} of {which} tokens", scorer))
    for cut, removed, allocation in cuts:
        for name, scorer in sources:
            yield f"{cut}: {name}", removed, allocation, scorer


def by_layer(spec: BackboneSpec, held_out: list[Importance]) -> Iterator[Case]:
    """Whole layers, by block influence and at random."""
    layers, depth = len(spec.layers), BASELINES["depth"]
    for dropped in range(1, 7):
        removed = dropped / layers
        for weight, which in ((0.5, "all"), (0.0, "image"), (1.0, "text")):
            scorer = lambda s, w=weight: scores(held_out[s], text_weight=w)  # noqa: E731
            yield f"influence on {which} tokens", removed, depth, scorer
        run = replace(depth, contiguous=True)
        yield "one run of layers", removed, run, lambda s: scores(held_out[s])
        spared = replace(depth, protect_first=1)
        yield "random, not the first", removed, spared, lambda s: at_random(held_out[0], s)


def by_kind(spec: BackboneSpec, held_out: list[Importance]) -> Iterator[Case]:
    """Heads only against channels only, at equal shares of their own kind."""
    groups = sum(s.kv_heads for s in spec.layers) * spec.attention_group_params
    channels = sum(s.channels for s in spec.layers) * spec.channel_params
    for share in (0.125, 0.25, 0.375, 0.5):
        for kind, lean, params in (("heads", 1.0, groups), ("channels", 0.0, channels)):
            allocation = Allocation(axis="width", temperature=0, attention_share=lean)
            removed = share * params / spec.backbone_params
            yield f"{share:.1%} of all {kind}", removed, allocation, lambda s: scores(held_out[s])


def by_allocation(held_out: list[Importance]) -> Iterator[Case]:
    """Baselines and 12 blind draws from the knobs, all at half of the backbone removed."""
    for name, allocation in BASELINES.items():
        if name not in ("depth", "width_window"):
            yield name, 0.5, allocation, lambda s: scores(held_out[s])
    rng = np.random.default_rng(0)
    for number in range(12):
        drawn = Allocation(
            axis="hybrid",
            depth_share=float(rng.uniform(0, 0.9)),
            temperature=float(rng.uniform()),
            attention_share=float(rng.uniform()),
            profile_slope=float(rng.uniform(-1, 1)),
            profile_curve=float(rng.uniform(-1, 1)),
            protect_first=int(rng.integers(0, 2)),
        )
        yield f"drawn {number:02d}", 0.5, drawn, lambda s: scores(held_out[s])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    begun = time.perf_counter()
    judge = Judge(given.model, "search", given.images)
    print(f"dense: average {judge.dense.average:.3f}", judge.dense.by_task)
    before = time.perf_counter()
    held_out = calibrate(judge, "calibration")
    seconds = (time.perf_counter() - before) / len(SEEDS)
    train = calibrate(judge, "train")
    for name, measured in (("held out", held_out), ("train", train)):
        losses = ", ".join(f"{m.loss:.3f}" for m in measured)
        print(f"calibration on {name}: answer loss {losses} nats a token")
    print(f"one pass over {CALIBRATION} images: {seconds:.2f} s, encoding and features included")
    for name in ("block", "attention", "mlp"):
        mean = np.mean([getattr(m, f"{name}_influence") for m in held_out], axis=0)
        print(
            f"{name} influence, image:", np.round(mean[:, 0], 3), "text:", np.round(mean[:, 1], 3)
        )
    alone = [dropping(judge.spec, index) for index in range(len(judge.spec.layers))]
    store = Store(given.out / "results.csv")
    losses = []
    for index, plan in enumerate(alone):
        losses.append(1 - store.row(judge, "one layer", str(index), [plan])["R"])
    influence = np.mean([scores(m).layers for m in held_out], axis=0)
    order = spearmanr(influence, losses)
    print(f"block influence against loss of R, one layer dropped: Spearman {order.statistic:.2f}")
    parts = {
        "criterion": by_criterion(held_out, train),
        "layers": by_layer(judge.spec, held_out),
        "kind": by_kind(judge.spec, held_out),
        "allocation": by_allocation(held_out),
    }
    for part, cases in parts.items():
        for name, removed, allocation, scorer in cases:
            seeds = SEEDS[:1] if name.startswith("drawn") else SEEDS
            target = judge.spec.total_params - int(removed * judge.spec.backbone_params + 0.5)
            plans = [allocate(judge.spec, scorer(seed), allocation, target) for seed in seeds]
            store.row(judge, part, name, plans)
    print(f"{(time.perf_counter() - begun) / 60:.1f} min")


def dropping(spec: BackboneSpec, index: int) -> PruningPlan:
    """The dense model without one layer."""
    plan = dense_plan(spec)
    return replace(plan, layers=plan.layers[:index] + plan.layers[index + 1 :])


class Store:
    """Rows on disk, each written once it is known: a run that was stopped goes on from there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[tuple[str, ...], dict[str, str]] = {}
        if path.exists():
            with path.open(newline="") as stream:
                for row in csv.DictReader(stream):
                    self.known[row["part"], row["case"], row["params"]] = row

    def row(self, judge: Judge, part: str, case: str, plans: list[PruningPlan]) -> dict[str, Any]:
        """Score a case on all its seeds; equal plans are scored once."""
        size = size_of(judge.spec, plans[0])
        key = (part, case, str(size.params))
        if key in self.known:
            return {**self.known[key], "R": float(self.known[key]["R"])}
        scored = {plan: judge.score(plan) for plan in dict.fromkeys(plans)}
        found = bootstrap([scored[plan] for plan in plans], judge.dense)
        row = {
            "part": part,
            "case": case,
            "backbone_removed": round(size.backbone_removed, 4),
            "params": size.params,
            "R": round(found.mean, 4),
            "low": round(found.low, 4),
            "high": round(found.high, 4),
            "worst_seed": round(min(retention(s, judge.dense).value for s in scored.values()), 4),
            "seeds": len(plans),
            "dropped_layers": " ".join(map(str, plans[0].dropped_layers)),
        }
        fresh = not self.path.exists()
        with self.path.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, list(row))
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        print(*row.values(), sep="  ", flush=True)
        return row


if __name__ == "__main__":
    main()
