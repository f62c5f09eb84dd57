"""EvoPress (Sieberling et al. 2024, arXiv 2410.14649): level-switch search at a fixed size.

A parent has children; each takes a level from one sublayer and gives it to another of its kind,
one to three times (the lesser of two draws), so that the size never changes. Children are thinned
out on growing numbers of calibration images, the parent joins the last comparison, and the best
goes on. Fitness is the KL divergence from the dense model, at answer tokens.

Two spaces. ``evopress``: a level is a KV group of attention, or ``STEP`` channels of an MLP; heads
and channels lose the same share, as the published search keeps the uniform start's budget for each
kind of module. It knows no structured units; which of a sublayer go is said by AutoPrune's Taylor
score of gates. ``evopress-drop``: attention and MLP sublayers are dropped, and swapped with kept
ones; what whole sublayers leave of the cut is trimmed off the channels that stay, equally.

The budget is the published one by its ratios. Widths: 400 generations of 64 children for the 224
matrices of a 7B model are 36 for 20 sublayers; survivors 8, 2, 1 on rows in the ratio 1:4:16 (as
published 1:8:32, which at two images in the first stage is four times the images that a third of
a search affords). Dropping: 32 children, survivors 2, 1 on rows 1:16, k(n - k)/1.5 generations,
64 random starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprune.evaluation.proxy import kl_to_dense
from autoprune.pruning.scores import scores
from experiments.peers.calibration import Calibration
from experiments.peers.kept import CHANNEL, GROUP, Kept, Unit, cut, fill, ranked, target_of
from experiments.peers.methods import Built

STEP = 16
MUTATIONS = 3
LOOKED_AT = 64  # images that the course of a search is written down on, for the reader only

State = tuple[tuple[int, ...], tuple[int, ...]]
"""Levels of each layer's attention and of its MLP."""


@dataclass(frozen=True)
class Budget:
    """How much an evolution does.

    Attributes:
        starts: random states, the best of which is the first parent.
        generations: of children.
        children: a generation.
        survivors: after each comparison; the last is 1.
        rows: calibration images of each comparison.
    """

    starts: int
    generations: int
    children: int
    survivors: tuple[int, ...]
    rows: tuple[int, ...]


def width_budget(layers: int) -> Budget:
    """Return the published budget of a search of levels, by its ratios."""
    return Budget(8, round(400 * 2 * layers / 224), 64, (8, 2, 1), (2, 8, 32))


def drop_budget(layers: int, dropped: float) -> Budget:
    """Return the published budget of a search of what to drop, by its ratios."""
    return Budget(64, round(dropped * (layers - dropped) / 1.5), 32, (2, 1), (2, 32))


def evopress(calibration: Calibration, removed: float, seed: int) -> Built:
    """Widths of sublayers, searched."""
    spec, target = calibration.spec, target_of(calibration.spec, removed)
    shape, layers = spec.layers[0], len(spec.layers)
    groups = round((1 - removed) * layers * shape.kv_heads)
    bare = spec.params_of(shape for shape in spec.layers)
    bare -= layers * shape.kv_heads * spec.attention_group_params
    bare -= layers * shape.channels * spec.channel_params
    channels = (target - bare - groups * spec.attention_group_params) // spec.channel_params
    totals = (groups, channels // STEP)
    tops = (shape.kv_heads, shape.channels // STEP)
    search = Evolution(calibration, tops, (1, STEP), seed)
    state, notes, flops = search.run(totals, width_budget(layers))
    kept = fill(spec, search.kept(state), search.order, target)
    return Built(kept.plan(spec), flops, notes=notes)


def evopress_drop(calibration: Calibration, removed: float, seed: int) -> Built:
    """Sublayers dropped, searched."""
    spec, target = calibration.spec, target_of(calibration.spec, removed)
    shape, layers = spec.layers[0], len(spec.layers)
    gone = _sublayers_to_drop(calibration, spec.total_params - target)
    search = Evolution(calibration, (1, 1), (shape.kv_heads, shape.channels), seed)
    totals = (layers - gone[0], layers - gone[1])
    state, notes, flops = search.run(totals, drop_budget(layers, sum(gone) / 2))
    kept = cut(spec, search.kept(state), search.channels_in_turn(), target)
    return Built(kept.plan(spec), flops, notes={**notes, "dropped": list(gone)})


def _sublayers_to_drop(calibration: Calibration, size: int) -> tuple[int, int]:
    """Return how many attention and MLP sublayers go: most of the cut, as equal in number."""
    spec = calibration.spec
    shape = spec.layers[0]
    attention = shape.kv_heads * spec.attention_group_params + spec.attention_fixed_params
    mlp = shape.channels * spec.channel_params + spec.mlp_fixed_params
    both = min(size // (attention + mlp), len(spec.layers) - 1)
    left = size - both * (attention + mlp)
    if left >= mlp > attention or attention > left >= mlp:
        return both, both + 1
    return (both + 1, both) if left >= attention else (both, both)


class Evolution:
    """The evolution of one model's levels.

    Args:
        calibration: what fitness is measured on.
        tops: the dense levels of attention and MLP.
        steps: units of a level.
        seed: of everything drawn.
    """

    def __init__(
        self, calibration: Calibration, tops: tuple[int, int], steps: tuple[int, int], seed: int
    ) -> None:
        self.calibration = calibration
        self.tops = tops
        self.steps = steps
        self.dice = np.random.default_rng([seed, 7])
        self.flops = calibration.forward_flops(len(calibration.encoded))  # the dense model's
        unit_scores = scores(calibration.assets.importance, "taylor")
        self.scores = {GROUP: unit_scores.groups, CHANNEL: unit_scores.channels}
        self.order: list[Unit] = ranked(unit_scores.groups, unit_scores.channels)
        self.places = {kind: _places(found) for kind, found in self.scores.items()}

    def run(self, totals: tuple[int, int], budget: Budget) -> tuple[State, dict[str, Any], float]:
        """Evolve, and return the best state, what there is to say, and the FLOPs spent."""
        starts: list[State] = []
        for _ in range(budget.starts * 20):  # few states there may be fewer of
            state = self._start(totals)
            if state not in starts:
                starts.append(state)
            if len(starts) == budget.starts:
                break
        (parent,) = self.select(starts, 1, budget.rows[0])
        course = [self.look(parent)]
        for generation in range(budget.generations):
            children = self._children(parent, budget.children)
            for count, rows in zip(budget.survivors, budget.rows, strict=True):
                if count == budget.survivors[-1] and parent not in children:
                    children.append(parent)
                children = self.select(children, count, rows)
            (parent,) = children
            if generation % 4 == 3 or generation == budget.generations - 1:
                course.append(self.look(parent))
        notes = {"course": [round(value, 5) for value in course], "levels": parent}
        return parent, notes, self.flops

    def kept(self, state: State) -> Kept:
        """Return the units that a state keeps: the best of each sublayer."""
        masks = [
            self.places[kind] < np.array(levels)[:, None] * step
            for kind, levels, step in zip((GROUP, CHANNEL), state, self.steps, strict=True)
        ]
        return Kept(*masks)

    def select(self, states: Sequence[State], count: int, rows: int) -> list[State]:
        """Return the ``count`` fittest states on as many randomly drawn images."""
        if len(states) <= count:
            return list(states)
        every = len(self.calibration.encoded)
        drawn = np.sort(self.dice.choice(every, min(rows, every), replace=False))
        fitness = []
        for state in states:
            kept = self.kept(state)
            fitness.append(divergence(self.calibration, kept, drawn))
            shapes = kept.shapes(self.calibration.spec)
            self.flops += self.calibration.forward_flops(len(drawn), shapes)
        return [states[place] for place in np.argsort(fitness, kind="stable")[:count]]

    def look(self, state: State) -> float:
        """Return the fitness on always the same images; no part of the search."""
        rows = np.arange(min(LOOKED_AT, len(self.calibration.encoded)))
        return divergence(self.calibration, self.kept(state), rows)

    def channels_in_turn(self) -> list[Unit]:
        """Return all channels by their rank in their layer, best first."""
        ranks = self.places[CHANNEL]
        order = np.argsort(ranks.ravel(), kind="stable")
        width = ranks.shape[1]
        return [(CHANNEL, int(i) // width, int(i) % width) for i in order]

    def _start(self, totals: tuple[int, int]) -> State:
        """Return levels as equal as their sum allows, the rest at random."""
        if self.tops == (1, 1):
            return self._drawn(totals)
        layers = len(self.calibration.spec.layers)
        found = []
        for total in totals:
            levels = np.full(layers, total // layers)
            levels[self.dice.choice(layers, total % layers, replace=False)] += 1
            found.append(tuple(int(level) for level in levels))
        return found[0], found[1]

    def _drawn(self, totals: tuple[int, int]) -> State:
        layers = len(self.calibration.spec.layers)
        found = []
        for total in totals:
            levels = np.zeros(layers, dtype=int)
            levels[self.dice.choice(layers, total, replace=False)] = 1
            found.append(tuple(int(level) for level in levels))
        return found[0], found[1]

    def _children(self, parent: State, count: int) -> list[State]:
        found: list[State] = []
        for _ in range(count * 20):
            child = mutated(parent, self.tops, self.dice)
            if child != parent and child not in found:
                found.append(child)
            if len(found) == count:
                break
        return found


def mutated(parent: State, tops: tuple[int, int], dice: np.random.Generator) -> State:
    """Return a child: one to three levels, fewer more often, change hands within a kind."""
    levels = [list(kind) for kind in parent]
    switches = min(dice.integers(1, MUTATIONS + 1), dice.integers(1, MUTATIONS + 1))
    for _ in range(switches):
        kind = int(dice.integers(2))
        up = [i for i, level in enumerate(levels[kind]) if level < tops[kind]]
        down = [i for i, level in enumerate(levels[kind]) if level > 0]
        if not up or not down:
            continue
        gains, loses = int(dice.choice(up)), int(dice.choice(down))
        levels[kind][gains] += 1
        levels[kind][loses] -= 1
    return tuple(levels[0]), tuple(levels[1])


def divergence(calibration: Calibration, kept: Kept, rows: np.ndarray) -> float:
    """Return the mean KL divergence from the dense model, nats an answer token, over rows."""
    heads = np.repeat(kept.groups, calibration.spec.q_per_group, axis=1)
    teacher = calibration.teacher
    assert teacher.hidden is not None  # cached without a limit
    with calibration.masked(heads, kept.channels) as model:
        return kl_to_dense(
            model,
            calibration.encoded,
            rows,
            teacher.hidden,
            teacher.head_weight,
            teacher_bias=teacher.head_bias,
            features=teacher.features,
        )


def _places(found: np.ndarray) -> np.ndarray:
    """Return each unit's rank in its layer, 0 the best."""
    return np.argsort(np.argsort(-found, axis=1, kind="stable"), axis=1, kind="stable")
