"""How large a candidate shall be, and the plan of that size: in parameters, or in bytes.

Bytes of a plan are no plain multiple of its parameters: each row of a quantised weight brings
its scales, and a width that does not suit a format's groups is not quantised. So the parameters
that a target in bytes stands for are searched, over plans that are exact in parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Protocol, TypeVar

from autoprune.cost.bytes import layer_bytes, linears_of, stored_bytes
from autoprune.cost.deployment import Deployment
from autoprune.cost.memory import memory_of
from autoprune.cost.parameters import Shaped
from autoprune.models.precision import PRECISIONS
from autoprune.models.shape import BackboneSpec, LayerShape
from autoprune.pruning.allocation import allocate, largest_unit, reachable
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.plan import PruningPlan
from autoprune.pruning.scores import UnitScores
from autoprune.search.candidates.bounds import Bounds

Shapes = TypeVar("Shapes", bound=Shaped)

TRIES = 40
"""Plans made to meet one target in bytes, at most; a handful is usual."""


class Sizing(Protocol):
    """A target size and the unit it is said in."""

    @property
    def multiple(self) -> int:
        """MLP channels are kept in multiples of it."""

    @property
    def name(self) -> str:
        """What is counted, in words."""

    @property
    def target(self) -> int:
        """Size that is asked for."""

    @property
    def most(self) -> int:
        """Size that may not be exceeded."""

    def unit(self, allocation: Allocation) -> int:
        """Return the size of the largest unit, which a plan is exact within."""

    def least(self, scores: UnitScores, allocation: Allocation) -> int:
        """Return the smallest size that an allocation gives."""

    def plan(self, scores: UnitScores, allocation: Allocation, wanted: int) -> PruningPlan:
        """Return the largest plan of an allocation that is no larger than ``wanted``."""

    def of(self, plan: PruningPlan) -> int:
        """Return the size of a plan."""

    def held(self, plan: PruningPlan) -> bool:
        """Whether something other than the target keeps a plan from being larger."""


@dataclass(frozen=True)
class ParamSizing:
    """Sizes in parameters of the whole model."""

    spec: BackboneSpec
    target: int
    most: int
    multiple: int = 1

    @property
    def name(self) -> str:
        """What is counted."""
        return "parameters"

    def unit(self, allocation: Allocation) -> int:
        """Return the parameters of the largest unit."""
        return largest_unit(self.spec, allocation, self.multiple)

    def least(self, scores: UnitScores, allocation: Allocation) -> int:
        """Return the fewest parameters that an allocation gives."""
        return reachable(self.spec, allocation, multiple=self.multiple)[0]

    def plan(self, scores: UnitScores, allocation: Allocation, wanted: int) -> PruningPlan:
        """Return the plan of at most ``wanted`` parameters."""
        wanted = min(wanted, self.spec.total_params)
        return allocate(self.spec, scores, allocation, wanted, multiple=self.multiple)

    def of(self, plan: Shaped) -> int:
        """Return the parameters of a plan."""
        return self.spec.params_of(plan.shapes)

    def held(self, plan: PruningPlan) -> bool:
        """Nothing but the target counts."""
        return False


@dataclass(frozen=True)
class ByteSizing:
    """Sizes in bytes of stored weights in ``precision``, of at most ``max_params`` parameters.

    With a ``prompt`` they are bytes of memory while it is answered.
    """

    spec: BackboneSpec
    target: int
    most: int
    precision: str
    max_params: int
    multiple: int = 1
    prompt: Deployment | None = None

    @property
    def name(self) -> str:
        """What is counted, and in which precision."""
        return f"bytes {'of memory ' if self.prompt else ''}in {self.precision}"

    def unit(self, allocation: Allocation) -> int:
        """Return the bytes that come or go with the largest unit.

        With it an out-projection may get a width that the precision does not take, so that all
        of it changes its size.
        """
        step = _largest_step(self.spec, self.precision, self.multiple)
        if allocation.stock:
            step *= len(self.spec.layers)
        params = largest_unit(self.spec, allocation, self.multiple)
        stored = max(step, math.ceil(params * _worst_rate(self.spec, self.precision)))
        return stored + (self._beside(allocation.stock) if self.prompt else 0)

    def _beside(self, stock: bool) -> int:
        """Return the most bytes of cache and activations that come or go with a unit."""
        if self.prompt is None:
            return 0
        spec, item = self.spec, PRECISIONS[self.precision].item_bytes
        cache = 2 * spec.head_dim * (len(spec.layers) if stock else 1)
        room = max(4 * spec.head_dim * (spec.q_per_group + 1), 4 * self.multiple)
        return item * self.prompt.positions * (cache + room)

    def least(self, scores: UnitScores, allocation: Allocation) -> int:
        """Return the fewest bytes that an allocation gives; beyond ``most`` if it cannot."""
        low = reachable(self.spec, allocation, multiple=self.multiple)[0]
        if low > self.max_params:
            return self.most + 1
        return self.of(allocate(self.spec, scores, allocation, low, multiple=self.multiple))

    def plan(self, scores: UnitScores, allocation: Allocation, wanted: int) -> PruningPlan:
        """Return the plan of at most ``wanted`` bytes."""

        def make(params: int) -> PruningPlan:
            return allocate(self.spec, scores, allocation, params, multiple=self.multiple)

        low = reachable(self.spec, allocation, multiple=self.multiple)[0]
        most = min(self.max_params, self.spec.total_params)
        return largest(make, self.of, low, most, wanted, self.near(allocation))

    def near(self, allocation: Allocation) -> int:
        """Return how near below a size a plan is near enough: bytes of the unit that fills it up.

        For ``stock`` the largest unit, heads of every layer, says little of that: where heads come
        in few counts it is a good part of the model, and widths or layers meet the size.
        """
        if not allocation.stock:
            return self.unit(allocation)
        if allocation.axis == "depth":
            stored = (layer_bytes(self.spec, shape, self.precision) for shape in self.spec.layers)
            return max(stored) + self._beside(False)
        channels = self.multiple * self.spec.channel_params * len(self.spec.layers)
        stepped = math.ceil(channels * _worst_rate(self.spec, self.precision))
        return stepped + self._beside(True)

    def of(self, plan: Shaped) -> int:
        """Return the bytes of a plan."""
        if self.prompt is not None:
            return memory_of(self.spec, plan, self.precision, self.prompt).total
        return stored_bytes(self.spec, plan, self.precision)

    def held(self, plan: PruningPlan) -> bool:
        """Nothing but the target counts."""
        return False


SCALE, FINE = 10**9, 10**6
"""What a bound that is just met counts, where several are held at once, and near enough to it."""


@dataclass(frozen=True)
class BoundedSizing:
    """A sizing whose plans keep to bounds of other units as well.

    Attributes:
        inner: the sizing.
        bounds: that every plan keeps to.
        precision: of its weights.
    """

    inner: ParamSizing | ByteSizing
    bounds: Bounds
    precision: str

    @property
    def multiple(self) -> int:
        """MLP channels are kept in multiples of it."""
        return self.inner.multiple

    @property
    def name(self) -> str:
        """What is counted, and what holds beside it."""
        beside = " and ".join(bound.text for bound in self.bounds.limits)
        return f"{self.inner.name} within {beside}"

    @property
    def target(self) -> int:
        """Size that is asked for."""
        return self.inner.target

    @property
    def most(self) -> int:
        """Size that may not be exceeded."""
        return self.inner.most

    def unit(self, allocation: Allocation) -> int:
        """Return the size of the largest unit."""
        return self.inner.unit(allocation)

    def least(self, scores: UnitScores, allocation: Allocation) -> int:
        """Return the smallest size that an allocation gives; beyond ``most`` if a bound is."""
        if self.bounds.load(self._smallest(scores, allocation), self.precision) > 1:
            return self.inner.most + 1
        return self.inner.least(scores, allocation)

    def unmet(self, scores: UnitScores, allocation: Allocation) -> str:
        """Return the bounds that even the smallest plan of an allocation is over, in words."""
        return self.bounds.unmet(self._smallest(scores, allocation), self.precision)

    def _smallest(self, scores: UnitScores, allocation: Allocation) -> PruningPlan:
        spec, multiple = self.inner.spec, self.inner.multiple
        low = reachable(spec, allocation, multiple=multiple)[0]
        return allocate(spec, scores, allocation, low, multiple=multiple)

    def plan(self, scores: UnitScores, allocation: Allocation, wanted: int) -> PruningPlan:
        """Return the largest plan of an allocation that keeps to ``wanted`` and to all bounds."""
        plan = self.inner.plan(scores, allocation, wanted)
        if self.bounds.load(plan, self.precision) <= 1:
            return plan
        spec, multiple = self.inner.spec, self.inner.multiple
        return largest(
            lambda params: allocate(spec, scores, allocation, params, multiple=multiple),
            lambda made: self.filled(made, wanted),
            reachable(spec, allocation, multiple=multiple)[0],
            spec.params_of(plan.shapes),
            SCALE,
            FINE,
        )

    def filled(self, plan: Shaped, wanted: int) -> int:
        """Return the largest share that a plan takes of ``wanted`` or of a bound, in ``SCALE``."""
        share = max(self.inner.of(plan) / max(wanted, 1), self.bounds.load(plan, self.precision))
        return math.ceil(SCALE * share)

    def of(self, plan: Shaped) -> int:
        """Return the size of a plan."""
        return self.inner.of(plan)

    def held(self, plan: PruningPlan) -> bool:
        """Whether one more unit could break a bound."""
        return self.bounds.load(plan, self.precision) > _NEARLY


_NEARLY = 0.97
"""A plan that takes this share of a bound is as large as the bound allows."""


@lru_cache(maxsize=64)
def _largest_step(spec: BackboneSpec, precision: str, multiple: int) -> int:
    shape = max(spec.layers, key=spec.params_of_layer)
    ratio = spec.q_per_group
    narrower = [
        LayerShape(groups * ratio, groups, shape.channels)
        for groups in range(1, shape.kv_heads + 1)
    ]
    fewer = [
        LayerShape(heads * shape.kv_heads, shape.kv_heads, shape.channels)
        for heads in range(1, ratio + 1)
    ]
    widths = [*range(multiple, shape.channels, multiple), shape.channels]
    slimmer = [LayerShape(shape.heads, shape.kv_heads, width) for width in widths[-3:]]
    sizes = [[layer_bytes(spec, s, precision) for s in row] for row in (narrower, fewer, slimmer)]
    return max((abs(b - a) for row in sizes for a, b in pairwise(row)), default=sizes[0][-1])


@lru_cache(maxsize=64)
def _worst_rate(spec: BackboneSpec, precision: str) -> float:
    """Return the most bytes that a quantised weight takes an entry, its scales included."""
    row = PRECISIONS[precision]
    shape = max(spec.layers, key=spec.params_of_layer)
    if row.storage is None:
        return float(row.item_bytes)
    return max(
        row.storage.bytes(rows, columns) / (rows * columns)
        if row.storage.fits(columns)
        else float(row.item_bytes)
        for rows, columns in linears_of(spec, shape)
    )


def largest(
    make: Callable[[int], Shapes],
    size: Callable[[Shapes], int],
    low: int,
    high: int,
    wanted: int,
    unit: int,
) -> Shapes:
    """Return the largest plan or layout no larger than ``wanted``, searching its parameters.

    Args:
        make: parameters -> plan of at most that many.
        size: plan -> what ``wanted`` is said in; grows with the parameters, by and large.
        low: parameters whose plan is not too large, or is what there is.
        high: most parameters to try.
        wanted: size that may not be exceeded.
        unit: how near below ``wanted`` is near enough.
    """
    best = make(high)
    if size(best) <= wanted:
        return best
    above, below = (high, size(best)), (low, size(best := make(low)))
    for turn in range(TRIES):
        gap = wanted - below[1]
        if gap < unit or above[0] - below[0] <= 1:
            break
        # Straight between the two ends, where the size would be met; every third time half
        # way, as a step in size can hold one end still.
        share = 0.5 if turn % 3 == 2 else gap / (above[1] - below[1])
        params = below[0] + max(1, min(above[0] - below[0] - 1, int(share * (above[0] - below[0]))))
        plan = make(params)
        if size(plan) <= wanted:
            if size(plan) > size(best):
                best = plan
            below = (params, size(plan))
        else:
            above = (params, size(plan))
    return best


def multiple_of(precision: str, multiple: int = 1) -> int:
    """Return the multiple that MLP widths are cut to, so that ``precision`` can take them."""
    storage = PRECISIONS[precision].storage
    return multiple if storage is None else math.lcm(multiple, storage.group)
