"""The neighbours of a layout at its own size, in the objective's unit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from autoprune.cost.parameters import Shaped
from autoprune.errors import AutoPruneError
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.layout import Layout
from autoprune.pruning.moves import Frame, moved
from autoprune.search.candidates.decode import DecodeContext
from autoprune.search.candidates.sizing import (
    FINE,
    SCALE,
    BoundedSizing,
    ByteSizing,
    ParamSizing,
    largest,
    multiple_of,
)
from autoprune.search.sampling.refine import Propose

_LEAST = 0.8
"""Fewest parameters that are tried for a size in bytes, as a share of the start's."""


def neighbours(start: Layout, precision: str, context: DecodeContext) -> Propose:
    """Return the moves that stay at the size of ``start``, and so within the budget.

    In parameters a neighbour is exact within one unit. In bytes, and where memory or latency is
    bounded, each move is made at as many parameters as ``start`` has, or at fewer, so that it has
    no more bytes either and keeps to the bounds.

    Args:
        start: layout that the size is taken of.
        precision: that its weights are stored in.
        context: of the search.
    """
    spec = context.spec
    frame = Frame(spec, multiple_of(precision, context.multiple), context.stock)
    params = spec.params_of(start.shapes)
    bounds = context.bounds
    if not context.spans and (bounds is None or not bounds.limits):
        return lambda layout, seed, moves: moved(frame, layout, params, seed, moves)
    inner: ParamSizing | ByteSizing = ParamSizing(spec, 0, 0, frame.multiple)
    if context.spans:
        prompt = bounds.prompt if bounds is not None and context.in_memory else None
        inner = ByteSizing(spec, 0, 0, precision, context.max_params, frame.multiple, prompt)
    wanted = inner.of(start)
    size: Callable[[Shaped], int] = inner.of
    near = inner.near(Allocation(stock=context.stock)) if isinstance(inner, ByteSizing) else 1
    if bounds is not None and bounds.limits:
        within = BoundedSizing(inner, bounds, precision)
        size = partial(within.filled, wanted=wanted)
        wanted, near = SCALE, FINE

    def propose(layout: Layout, seed: int, moves: int) -> Layout:
        found = largest(
            lambda most: moved(frame, layout, most, seed, moves),
            size,
            round(_LEAST * params),
            params,
            wanted,
            near,
        )
        if size(found) > wanted:
            raise AutoPruneError(f"no move keeps within the {inner.of(start):,} {inner.name}")
        return found

    return propose
