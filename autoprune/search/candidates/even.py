"""Plans that need no importance: what budgets can be read against before anything is measured."""

from __future__ import annotations

import math

import numpy as np

from autoprune.models.shape import BackboneSpec
from autoprune.pruning.allocation import allocate, reachable
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.plan import PruningPlan
from autoprune.pruning.scores import UnitScores
from autoprune.search.candidates.bounds import Bounds
from autoprune.search.candidates.sizing import FINE, SCALE, ByteSizing, largest


def even_plan(
    spec: BackboneSpec,
    params: int,
    multiple: int = 1,
    stock: bool = False,
    axis: str = "hybrid",
) -> PruningPlan:
    """Return the plan of at most ``params`` that needs no importance: all units are alike.

    Of less than pruning can reach, it is the smallest plan.
    """
    scores = UnitScores(
        groups=np.ones((len(spec.layers), max(shape.kv_heads for shape in spec.layers))),
        channels=np.ones((len(spec.layers), max(shape.channels for shape in spec.layers))),
        layers=np.ones(len(spec.layers)),
        attention=np.ones(len(spec.layers)),
        mlp=np.ones(len(spec.layers)),
    )
    allocation = Allocation(axis=axis, stock=stock)
    low = reachable(spec, allocation, multiple)[0]
    return allocate(spec, scores, allocation, max(low, params), multiple)


def even_plan_of_bytes(
    spec: BackboneSpec,
    most: int,
    max_params: int,
    precision: str,
    multiple: int = 1,
    stock: bool = False,
) -> PruningPlan:
    """Return the plan of at most ``most`` bytes and ``max_params`` that needs no importance."""
    allocation = Allocation(stock=stock)
    sizing = ByteSizing(spec, most, most, precision, max_params, multiple)
    return largest(
        lambda params: even_plan(spec, params, multiple, stock),
        sizing.of,
        reachable(spec, allocation, multiple)[0],
        min(max_params, spec.total_params),
        most,
        sizing.near(allocation),
    )


def even_plan_within(
    spec: BackboneSpec,
    max_params: int,
    bounds: Bounds,
    precision: str,
    multiple: int = 1,
    stock: bool = False,
) -> PruningPlan:
    """Return the largest even plan of at most ``max_params`` that keeps to all bounds.

    Where none does it is the smallest plan.
    """
    return largest(
        lambda params: even_plan(spec, params, multiple, stock),
        lambda made: math.ceil(SCALE * bounds.load(made, precision)),
        reachable(spec, Allocation(stock=stock), multiple)[0],
        min(max_params, spec.total_params),
        SCALE,
        FINE,
    )
