"""Chains of removable units, and the cut through them that meets a size exactly."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from autoprune.errors import AutoPruneError
from autoprune.models.shape import BackboneSpec
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.scores import GONE, UnitScores

ATTENTION, MLP = "attention", "mlp"

_SLOWEST = 1e-6
"""Rates below it could not be told from one another."""


@dataclass(frozen=True)
class Chain:
    """Units of one sublayer in steps, in the order in which they are kept.

    Attributes:
        layers: layers that the chain runs through: one, or all of them with equal counts.
        kind: ``attention`` (units are KV groups, or query heads of each group) or ``mlp``
            (channels).
        sizes: ``int64 [steps]``: units of each step, in each layer. The first always stays.
        costs: ``int64 [steps]``: parameters of each step, in all its layers.
        rate: how readily it is cut, relative to the others.
        ratio: keep ratio that was asked for, if any.
        keys: ``float64 [steps]``, falling: steps of lower key are removed first. Empty without
            scores.
    """

    layers: tuple[int, ...]
    kind: str
    sizes: np.ndarray
    costs: np.ndarray
    rate: float
    ratio: float | None
    keys: np.ndarray


def by_query(spec: BackboneSpec, allocation: Allocation) -> bool:
    """Whether attention is cut by query heads inside KV groups."""
    return allocation.head_unit == "query" and spec.q_per_group > 1


def chains_of(
    spec: BackboneSpec,
    allocation: Allocation,
    removed: Collection[tuple[int, str]],
    multiple: int,
    scores: UnitScores | None = None,
) -> list[Chain]:
    """Return a chain for every sublayer that may be cut, beside those that are ``removed``."""
    chains = []
    for kind in (ATTENTION, MLP):
        kept = [
            index
            for index, shape in enumerate(spec.layers)
            if (index, kind) not in removed
            and (shape.heads if kind == ATTENTION else shape.channels)
        ]
        for layers in [tuple(kept)] if allocation.stock else [(index,) for index in kept]:
            chain = _chain(spec, allocation, layers, kind, multiple) if layers else None
            if chain is not None:
                chains.append(chain)
    if scores is None:
        return chains
    return _with_keys(spec, allocation, chains, scores)


def cheapest(chains: list[Chain]) -> int:
    """Return the parameters that all chains can lose together."""
    return sum(int(chain.costs[1:].sum()) for chain in chains)


def cut_to_size(chains: list[Chain], excess: int) -> dict[tuple[int, str], int]:
    """Return how many units each (layer, kind) keeps once ``excess`` parameters are gone.

    At least ``excess`` are removed; then the step of highest key that fits is put back, until
    none does. Steps go and come at the ends of chains only.
    """
    kept_steps = _threshold(chains, excess)
    removed = sum(
        int(chain.costs[steps:].sum()) for chain, steps in zip(chains, kept_steps, strict=True)
    )
    slack = removed - excess
    key = np.full(len(chains), -np.inf)
    cost = np.full(len(chains), np.iinfo(np.int64).max)

    def show_next(place: int) -> None:
        chain, steps = chains[place], kept_steps[place]
        more = steps < len(chain.costs)
        key[place] = chain.keys[steps] if more else -np.inf
        cost[place] = chain.costs[steps] if more else np.iinfo(np.int64).max

    for place in range(len(chains)):
        show_next(place)
    while (fits := cost <= slack).any():
        place = int(np.argmax(np.where(fits, key, -np.inf)))
        slack -= int(cost[place])
        kept_steps[place] += 1
        show_next(place)
    return {
        (layer, chain.kind): int(chain.sizes[:steps].sum())
        for chain, steps in zip(chains, kept_steps, strict=True)
        for layer in chain.layers
    }


def _threshold(chains: list[Chain], excess: int) -> list[int]:
    """Return how many steps of each chain stand above the lowest bar that removes ``excess``."""
    if not chains or excess <= 0:
        return [len(chain.sizes) for chain in chains]
    keys = np.concatenate([chain.keys[1:] for chain in chains])
    costs = np.concatenate([chain.costs[1:] for chain in chains])
    order = np.argsort(keys)
    place = int(np.searchsorted(np.cumsum(costs[order]), excess))
    bar = keys[order[min(place, len(order) - 1)]]
    return [1 + int(np.count_nonzero(chain.keys[1:] > bar)) for chain in chains]


def _chain(
    spec: BackboneSpec,
    allocation: Allocation,
    layers: tuple[int, ...],
    kind: str,
    multiple: int,
) -> Chain | None:
    """Return the chain of one sublayer, or nothing if it is left whole."""
    shapes = {spec.layers[index] for index in layers}
    if len(shapes) > 1:
        raise AutoPruneError("the dense layers differ in shape: equal counts need stock=False")
    shape = shapes.pop()
    rate = 2 * (allocation.attention_share if kind == ATTENTION else 1 - allocation.attention_share)
    ratio = None
    if not allocation.stock:
        depth, (index,) = len(spec.layers), layers
        window = allocation.attention_window if kind == ATTENTION else allocation.mlp_window
        whole = index < allocation.protect_first or index >= depth - allocation.protect_last
        if whole or not window[0] <= index / depth < window[1]:
            return None
        x = 2 * index / (depth - 1) - 1 if depth > 1 else 0.0
        curve = (3 * x * x - 1) / 2
        rate *= math.exp(allocation.profile_slope * x + allocation.profile_curve * curve)
        if allocation.layer_ratios is not None:
            ratio = allocation.layer_ratios[index * len(allocation.layer_ratios) // depth]
    if rate == 0 or ratio == 1:
        return None
    if kind == ATTENTION and by_query(spec, allocation):
        unit = spec.head_params * shape.kv_heads
        sizes = _head_steps(spec, spec.q_per_group, shape.kv_heads, allocation.stock)
    elif kind == ATTENTION:
        unit = spec.attention_group_params
        sizes = _head_steps(spec, shape.kv_heads, spec.q_per_group, allocation.stock)
    else:
        unit, sizes = spec.channel_params, _channel_steps(shape.channels, multiple)
    if len(sizes) < 2:
        return None
    costs = sizes * (unit * len(layers))
    return Chain(layers, kind, sizes, costs, max(rate, _SLOWEST), ratio, np.empty(0))


def _head_steps(spec: BackboneSpec, most: int, heads: int, stock: bool) -> np.ndarray:
    """Return steps up to ``most`` units of ``heads`` query heads each."""
    counts = [
        count
        for count in range(1, most + 1)
        if not stock or count == most or spec.takes_heads(count * heads)
    ]
    return np.diff(np.array(counts), prepend=0)


@lru_cache(maxsize=64)
def _channel_steps(channels: int, multiple: int) -> np.ndarray:
    counts = np.append(np.arange(multiple, channels, multiple), channels)
    steps = np.diff(counts, prepend=0)
    steps.setflags(write=False)
    return steps


def _with_keys(
    spec: BackboneSpec, allocation: Allocation, chains: list[Chain], scores: UnitScores
) -> list[Chain]:
    """Give every step its key: how much is to go before it, at the chain's rate."""
    if not chains:
        return []
    queries = by_query(spec, allocation)
    means = [_step_means(spec, chain, scores, queries) for chain in chains]
    everywhere = _everywhere(chains, np.concatenate(means))
    # The bare minimum of the global rank breaks ties between layers by importance.
    blend = max(allocation.temperature, 1e-6)
    keyed, start = [], 0
    for place, chain in enumerate(chains):
        stop = start + len(chain.sizes)
        own = 1 - (np.cumsum(chain.sizes) - chain.sizes / 2) / chain.sizes.sum()
        keys = (1 - blend) * own + blend * everywhere[start:stop]
        if chain.ratio is not None:
            keys = np.log1p(-keys) / math.log(chain.ratio)
        # Units that are gone already (see ``rescore``) go before any other.
        keys = np.where(means[place] < 0, GONE, keys)
        keyed.append(replace(chain, keys=np.minimum.accumulate(keys / chain.rate)))
        start = stop
    return keyed


def _everywhere(chains: list[Chain], means: np.ndarray) -> np.ndarray:
    """Return each step's rank among all chains' steps, in (0, 1); 0 for what is gone already.

    What is gone counts as the lowest part of its own kind. So the ranks of a kind that has lost
    half begin at a half, as its steps' places do, and attention and MLP go on at their rates.
    """
    weights = np.concatenate([chain.costs for chain in chains]).astype(np.float64)
    kinds = np.concatenate([np.full(len(chain.costs), chain.kind) for chain in chains])
    left = means >= 0
    if left.all() or not left.any():
        return _ranks(means, weights)
    ranks = np.zeros(len(means))
    ranks[left] = _ranks(means[left], weights[left])
    for kind in (ATTENTION, MLP):
        mine = left & (kinds == kind)
        gone = weights[~left & (kinds == kind)].sum() / max(weights[kinds == kind].sum(), 1.0)
        ranks[mine] = gone + (1 - gone) * ranks[mine]
    return ranks


def _step_means(spec: BackboneSpec, chain: Chain, scores: UnitScores, queries: bool) -> np.ndarray:
    """Return the mean score of each step's units, best units first."""
    rows, count = list(chain.layers), int(chain.sizes.sum())
    if chain.kind == MLP:
        ordered = np.sort(scores.channels[rows, :count], axis=1)
    elif queries:
        assert scores.heads is not None
        heads = scores.heads[rows, : spec.layers[rows[0]].heads]
        ordered = np.sort(heads.reshape(-1, count), axis=1)  # a row is one KV group
    else:
        ordered = np.sort(scores.groups[rows, :count], axis=1)
    best_first = ordered[:, ::-1].mean(axis=0)
    if len(chain.sizes) == count:
        return best_first
    starts = np.cumsum(chain.sizes) - chain.sizes
    means: np.ndarray = np.add.reduceat(best_first, starts) / chain.sizes
    return means


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return for each value the share of all weight that lies below it, in (0, 1).

    Equal values share one rank, so that the order in which a sort leaves them does not matter.
    """
    order = np.argsort(values)
    ordered = values[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    upto = np.cumsum(weights[order])[ends]
    middle = (np.append(0.0, upto[:-1]) + upto) / 2 / upto[-1]
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(middle, np.diff(ends, prepend=-1))
    return ranks
