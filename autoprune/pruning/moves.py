"""Level-switch moves: small changes of a layout that keep its size (EvoPress, arXiv 2410.14649).

One sublayer gives parameters and another takes them; or another layer or sublayer is dropped;
or one more goes and others gain, or one comes back and others lose. Behind each move the layout
is settled: at most the target, and no kept sublayer could get a step more within it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoprune.errors import AutoPruneError
from autoprune.models.shape import BackboneSpec
from autoprune.pruning.chains import ATTENTION, MLP, Chain, chains_of
from autoprune.pruning.depth import Removed, params_without
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.layout import Layout

TRIES = 64
"""Moves drawn for one that can be made."""

_SUBSETS = (0.25, 0.5, 1.0)
"""About which share of the sublayers gains or loses beside a layer that goes or comes back."""

Unit = frozenset[tuple[int, str]]
"""What goes or comes back at once: a sublayer, or all that a layer has."""


@dataclass(frozen=True)
class Frame:
    """What all layouts of a search keep to.

    Attributes:
        spec: the dense model.
        multiple: widths of cut MLPs are multiples of it, or the dense width.
        stock: the same counts in every kept layer, and only whole layers are dropped.
    """

    spec: BackboneSpec
    multiple: int = 1
    stock: bool = False


def moved(frame: Frame, layout: Layout, target: int, seed: int, moves: int = 1) -> Layout:
    """Return a layout some moves away: at most ``target`` parameters and exact within one unit.

    A unit is a step of a kept sublayer (a KV group, a query head in each of its groups, or
    ``multiple`` channels), for stock layouts of all kept layers at once. The same arguments give
    the same layout, and never ``layout`` itself.

    Args:
        frame: what the layout keeps to.
        layout: to start from.
        target: parameters of the whole model that may be kept.
        seed: of the draws.
        moves: how many, one after the other.

    Raises:
        AutoPruneError: if no move could be found.
    """
    rng = np.random.default_rng(seed)
    found, unit = layout, _head_unit(frame.spec, layout)
    for turn in range(max(1, moves)):
        last = turn == max(1, moves) - 1
        found = _one(_State.of(frame, found, unit), found, target, rng, layout if last else None)
    return found


def _head_unit(spec: BackboneSpec, layout: Layout) -> str:
    """Return what a layout removes heads by: a KV group, or a query head in each of its groups."""
    rows = zip(layout.heads, layout.groups, strict=True)
    within = any(heads < groups * spec.q_per_group for heads, groups in rows)
    return "query" if within else "group"


def _one(
    state: _State, layout: Layout, target: int, rng: np.random.Generator, avoid: Layout | None
) -> Layout:
    """Return a layout one move away, other than ``layout`` and ``avoid``."""
    kinds, weights = zip(*_KINDS.items(), strict=True)
    for _ in range(TRIES):
        kind = kinds[int(rng.choice(len(kinds), p=weights))]
        draft = kind(state, rng)
        if draft is None or not draft.settle(target):
            continue
        new = draft.layout()
        if new not in (layout, avoid):
            return new
    raise AutoPruneError(
        f"no move of {TRIES} leads from a layout of {len(layout.shapes)} layers to another of at "
        f"most {target:,} parameters: search without refinement (--refine 0)"
    )


@dataclass
class _State:
    """A layout as chains of steps, to be changed and settled.

    ``kept`` counts the steps of each chain that stay; ``first`` are the chains that are to gain
    or lose before the others do; unless it ``grows``, nobody gains but for what rounding leaves.
    """

    frame: Frame
    unit: str
    removed: Removed
    chains: list[Chain]
    kept: list[int]
    first: list[int]
    grows: bool = True

    @classmethod
    def of(cls, frame: Frame, layout: Layout, unit: str) -> _State:
        steps = {
            "query": [h // g if g else 0 for h, g in zip(layout.heads, layout.groups, strict=True)],
            "group": layout.groups,
        }[unit]
        counts = {
            (index, kind): part[index]
            for kind, part in ((ATTENTION, steps), (MLP, layout.channels))
            for index in range(len(part))
        }
        removed = frozenset(
            (index, kind)
            for index, shape in enumerate(frame.spec.layers)
            for kind, dense in ((ATTENTION, shape.heads), (MLP, shape.channels))
            if dense and not counts[index, kind]
        )
        chains = _chains(frame, unit, removed)
        kept = [_steps(chain, counts[chain.layers[0], chain.kind]) for chain in chains]
        return cls(frame, unit, removed, chains, kept, [])

    def without(self, gone: Unit, back: Unit) -> _State | None:
        """Return the state that lacks ``gone`` and has ``back`` again, or None if none may be.

        A layer has to be left, and the first one keeps as many sublayers as it had: it is needed
        most, and a model without them only costs a try.
        """
        removed, spec = (self.removed | gone) - back, self.frame.spec
        left = _first_layer(spec, removed)
        if not left or len(left) < len(_first_layer(spec, self.removed)):
            return None
        chains = _chains(self.frame, self.unit, removed)
        before = dict(zip(((c.layers[0], c.kind) for c in self.chains), self.kept, strict=True))
        if self.frame.stock:
            kinds = dict(zip((c.kind for c in self.chains), self.kept, strict=True))
            kept = [kinds[chain.kind] for chain in chains]
            return _State(self.frame, self.unit, removed, chains, kept, [])
        kept, first = [], []
        for place, chain in enumerate(chains):
            here = (chain.layers[0], chain.kind)
            if here in before:
                kept.append(before[here])
                continue
            first.append(place)
            # As wide as what it comes in place of, or as the others of its kind are.
            likes = [before[u] for u in gone if u in before and u[1] == chain.kind]
            likes = likes or [n for u, n in before.items() if u[1] == chain.kind]
            usual = round(sum(likes) / len(likes)) if likes else len(chain.sizes)
            kept.append(min(max(usual, 1), len(chain.sizes)))
        return _State(self.frame, self.unit, removed, chains, kept, first)

    def settle(self, target: int) -> bool:
        """Make the size exact; False where ``target`` cannot be met."""
        upto = [np.cumsum(chain.costs) for chain in self.chains]
        fixed = params_without(self.frame.spec, self.removed) - sum(int(u[-1]) for u in upto)
        room = target - fixed
        if sum(int(u[0]) for u in upto) > room:
            return False
        everyone = range(len(self.chains))
        rest = [place for place in everyone if place not in self.first]
        for group in (self.first, rest):
            if group and (self.grows or self._cost(upto, self.kept) > room):
                self._scale(group, upto, room)
        self._fill([*self.first, *rest], room - self._cost(upto, self.kept))
        # Where all is whole already, nobody can gain what a dropped layer leaves.
        unit = max((int(chain.costs[1:].max()) for chain in self.chains), default=0)
        return room - self._cost(upto, self.kept) <= unit

    def _cost(self, upto: Sequence[np.ndarray], kept: Sequence[int]) -> int:
        return sum(int(u[n - 1]) for u, n in zip(upto, kept, strict=True))

    def _scale(self, places: Collection[int], upto: Sequence[np.ndarray], room: int) -> None:
        """Scale some chains by one factor, as far up, or as little down, as there is room for."""
        before = list(self.kept)

        def scaled(factor: float) -> list[int]:
            return [
                min(max(1, round(n * factor)), len(upto[place])) if place in places else n
                for place, n in enumerate(before)
            ]

        low, high = 0.0, float(max((len(upto[place]) for place in places), default=1))
        for _ in range(48):
            middle = (low + high) / 2
            if self._cost(upto, scaled(middle)) <= room:
                low = middle
            else:
                high = middle
        self.kept = scaled(low)

    def _fill(self, places: Sequence[int], slack: int) -> None:
        """Put steps back, in the order of ``places``, until none fits."""
        for place in places:
            chain = self.chains[place]
            while self.kept[place] < len(chain.sizes):
                cost = int(chain.costs[self.kept[place]])
                if cost > slack:
                    break
                slack -= cost
                self.kept[place] += 1

    def layout(self) -> Layout:
        """Return the counts."""
        spec = self.frame.spec
        counts = {
            (index, chain.kind): int(chain.sizes[:steps].sum())
            for chain, steps in zip(self.chains, self.kept, strict=True)
            for index in chain.layers
        }
        rows = []
        for index, dense in enumerate(spec.layers):
            heads, groups, channels = dense.heads, dense.kv_heads, dense.channels
            if (index, ATTENTION) in self.removed:
                heads, groups = 0, 0
            elif (count := counts.get((index, ATTENTION))) is not None:
                if self.unit == "query":
                    heads = count * groups
                else:
                    heads, groups = count * spec.q_per_group, count
            if (index, MLP) in self.removed:
                channels = 0
            rows.append((heads, groups, counts.get((index, MLP), channels)))
        return Layout(*(tuple(part) for part in zip(*rows, strict=True)))


def _shift(state: _State, rng: np.random.Generator) -> _State | None:
    """One sublayer gives steps, as many as a log-uniform draw says, and another takes them."""
    givers = [place for place, steps in enumerate(state.kept) if steps > 1]
    takers = [p for p, chain in enumerate(state.chains) if state.kept[p] < len(chain.sizes)]
    if not givers or not takers:
        return None
    giver, taker = int(rng.choice(givers)), int(rng.choice(takers))
    if giver == taker:
        return None
    gives, takes = state.chains[giver], state.chains[taker]
    most = state.kept[giver] - 1
    steps = _log_uniform(most, rng)
    # What is given has to pay for a step of the other at the least.
    price = int(takes.costs[state.kept[taker]])
    paid = np.cumsum(gives.costs[: state.kept[giver]][::-1])
    steps = max(steps, int(np.searchsorted(paid, price)) + 1)
    if steps > most:
        return None
    kept = list(state.kept)
    kept[giver] -= steps
    budget = int(paid[steps - 1])
    more = np.cumsum(takes.costs[kept[taker] :])
    kept[taker] += int(np.searchsorted(more, budget, side="right"))
    order = [taker, giver]
    return replace(state, kept=kept, first=order, grows=False)


def _swap(state: _State, rng: np.random.Generator) -> _State | None:
    """Another layer or sublayer is dropped instead of one that is dropped now."""
    return _exchange(state, rng, drop=True, restore=True)


def _drop(state: _State, rng: np.random.Generator) -> _State | None:
    """One layer or sublayer more is dropped, and others gain."""
    return _some(_exchange(state, rng, drop=True, restore=False), rng)


def _restore(state: _State, rng: np.random.Generator) -> _State | None:
    """A dropped layer or sublayer comes back, and others lose."""
    found = _exchange(state, rng, drop=False, restore=True)
    return None if found is None else replace(found, first=[])


def _exchange(state: _State, rng: np.random.Generator, drop: bool, restore: bool) -> _State | None:
    whole = state.frame.stock or bool(rng.integers(2))
    kept, dropped = _units(state, whole)
    if (drop and not kept) or (restore and not dropped):
        return None
    none: Unit = frozenset()
    gone = kept[int(rng.integers(len(kept)))] if drop else none
    back = dropped[int(rng.integers(len(dropped)))] if restore else none
    return state.without(gone, back)


def _some(state: _State | None, rng: np.random.Generator) -> _State | None:
    """Let some of the sublayers gain first."""
    if state is not None and not state.frame.stock:
        share = _SUBSETS[int(rng.integers(len(_SUBSETS)))]
        draws = rng.random(len(state.chains))
        first = [place for place in range(len(state.chains)) if draws[place] < share]
        return replace(state, first=first)
    return state


_KINDS: dict[Callable[[_State, np.random.Generator], _State | None], float] = {
    _shift: 0.5,
    _swap: 0.25,
    _drop: 0.125,
    _restore: 0.125,
}
"""Kinds of moves and how often each is drawn."""


def _chains(frame: Frame, unit: str, removed: Removed) -> list[Chain]:
    allocation = Allocation(head_unit=unit, stock=frame.stock)
    return chains_of(frame.spec, allocation, removed, frame.multiple)


def _steps(chain: Chain, count: int) -> int:
    """Return the steps that keep ``count`` units, or the next fewer."""
    return max(1, int(np.searchsorted(np.cumsum(chain.sizes), count, side="right")))


def _log_uniform(most: int, rng: np.random.Generator) -> int:
    """Return 1 to ``most``, each order of magnitude as likely."""
    return min(most, int(math.exp(rng.uniform(0.0, math.log(most + 1)))))


def _units(state: _State, whole: bool) -> tuple[list[Unit], list[Unit]]:
    """Return what may go and what may come back: layers as a whole, or sublayers."""
    kept: list[Unit] = []
    dropped: list[Unit] = []
    for index, shape in enumerate(state.frame.spec.layers):
        if index < state.frame.spec.anchored:
            continue
        has = [(ATTENTION, shape.heads), (MLP, shape.channels)]
        parts = [(index, kind) for kind, count in has if count]
        gone = [part for part in parts if part in state.removed]
        for unit in [frozenset(parts)] if whole else [frozenset({part}) for part in parts]:
            if unit <= state.removed:
                dropped.append(unit)
            elif not whole or not gone:
                kept.append(unit)
    return kept, dropped


def _first_layer(spec: BackboneSpec, removed: Removed) -> list[str]:
    """Return the sublayers of the first layer that is left; none: no layer is."""
    for index in range(len(spec.layers)):
        left = [kind for kind in (ATTENTION, MLP) if (index, kind) not in removed]
        if left:
            return left
    return []
