"""Re-scoring on a worker: the cut in tenths, importance measured again after each.

The calibration rows are those of the KL proxy, with the same cached features: what the workers
have at hand. It repeats exactly on the same machine (one seed-free pass, sums in float64), so
that a trial, its confirmation and a rebuild get the same plan; the record names that plan.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from autoprune.pipeline.prepare import calibration_rows
from autoprune.pipeline.run import Bench, lengths
from autoprune.pruning.importance import measure
from autoprune.pruning.plan import PruningPlan, dense_plan
from autoprune.pruning.rescore import lift, part_way
from autoprune.search.candidates.decode import DecodeContext, decode, sizing_of, unit_scores
from autoprune.search.knobs.space import Space
from autoprune.search.knobs.table import Value

RESCORE = "rescore"
"""Name of the stage in a record's seconds."""

STEPS = 10
"""Parts of a cut."""

ROWS = 32
"""Calibration rows of one measurement."""


def rows_of_rescoring(space: Space, most: float) -> float:
    """Return how many calibration rows a sampled trial reads again, on average.

    Args:
        space: of which the knob ``rescore`` counts.
        most: rows that the workers have.
    """
    knob = space.knobs.get(RESCORE)
    values = [space.complete({})[RESCORE]] if knob is None else list(knob.values())
    return values.count("tenths") / len(values) * (STEPS - 1) * min(ROWS, most)


@dataclass(frozen=True)
class Rescored:
    """What a plan is decoded with once importance was measured again, and what that took."""

    context: DecodeContext
    seconds: float = 0.0
    flops: float = 0.0


def rescored(knobs: Mapping[str, Value], context: DecodeContext, bench: Bench) -> Rescored:
    """Cut in tenths as ``knobs`` (complete) say, and return the context for the last one.

    Raises:
        AutoPruneError: as ``decode``; or for importance that is not finite.
    """
    if knobs["rescore"] == "once":
        return Rescored(context)
    started, flops = time.perf_counter(), 0.0
    assets, dense = bench.assets, context.importance
    rows = np.arange(min(ROWS, len(assets.probe)))
    size = calibration_rows(context.spec, assets.probe, assets.precision)
    multiple = sizing_of(knobs, context).multiple
    now: PruningPlan = dense_plan(context.spec)
    for step in range(1, STEPS):
        candidate = decode(knobs, context)
        part = part_way(now, candidate.plan, unit_scores(knobs, context), step, STEPS, multiple)
        if part == now:
            continue
        now = part
        model = bench.prune(now, candidate.precision)
        found = measure(
            model, assets.probe, rows, batch_size=size, features=assets.probe_teacher.features
        )
        del model
        context = replace(context, importance=lift(found, now, dense), rescored=True)
        flops += len(rows) * bench.flops.step(
            now.shapes,
            scope="full",
            checkpointing=True,
            vision=assets.probe.whole,
            **lengths(assets.probe),
        )
    return Rescored(context, time.perf_counter() - started, flops)
