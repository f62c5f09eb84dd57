"""The neighbours of a layout at its own size, in the objective's unit."""

from __future__ import annotations

from autoprune.errors import AutoPruneError
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.layout import Layout
from autoprune.pruning.moves import Frame, moved
from autoprune.search.candidates.decode import DecodeContext
from autoprune.search.candidates.sizing import ByteSizing, largest, multiple_of
from autoprune.search.sampling.refine import Propose

_LEAST = 0.8
"""Fewest parameters that are tried for a size in bytes, as a share of the start's."""


def neighbours(start: Layout, precision: str, context: DecodeContext) -> Propose:
    """Return the moves that stay at the size of ``start``, and so within the budget.

    In parameters a neighbour is exact within one unit. In bytes each move is made at as many
    parameters as ``start`` has, or at fewer, so that it has no more bytes either.

    Args:
        start: layout that the size is taken of.
        precision: that its weights are stored in.
        context: of the search.
    """
    spec = context.spec
    frame = Frame(spec, multiple_of(precision, context.multiple), context.stock)
    params = spec.params_of(start.shapes)
    if not context.spans:
        return lambda layout, seed, moves: moved(frame, layout, params, seed, moves)
    sizing = ByteSizing(spec, 0, 0, precision, context.max_params, frame.multiple)
    wanted = sizing.of(start)
    near = sizing.near(Allocation(stock=context.stock))

    def propose(layout: Layout, seed: int, moves: int) -> Layout:
        found = largest(
            lambda most: moved(frame, layout, most, seed, moves),
            sizing.of,
            round(_LEAST * params),
            params,
            wanted,
            near,
        )
        if sizing.of(found) > wanted:
            raise AutoPruneError(f"no move keeps within {wanted:,} bytes")
        return found

    return propose
