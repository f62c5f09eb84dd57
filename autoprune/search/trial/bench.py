"""What a worker does with a trial: decode its knobs, and run the candidate rung by rung."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.cost.bytes import dense_bytes, stored_bytes
from autoprune.cost.parameters import size_of
from autoprune.errors import AutoPruneError
from autoprune.evaluation.floors import Floor, missed
from autoprune.evaluation.scores import EvaluationFailed
from autoprune.models.shape import BackboneSpec
from autoprune.pipeline.assets import Assets
from autoprune.pipeline.candidate import Candidate
from autoprune.pipeline.run import Bench, CandidateRun, RungResult
from autoprune.pruning.layout import Layout, layout_of, plan_of
from autoprune.pruning.plan import PruningPlan
from autoprune.resources import Resources
from autoprune.search.candidates.bounds import Bounds
from autoprune.search.candidates.costs import shares_of
from autoprune.search.candidates.decode import DecodeContext, asked_removed, decode, unit_scores
from autoprune.search.candidates.neighbours import neighbours
from autoprune.search.candidates.rescoring import RESCORE, Rescored, rescored
from autoprune.search.knobs.grid import OF_RECOVERY
from autoprune.search.knobs.space import Space
from autoprune.search.knobs.table import Value
from autoprune.search.sampling.refine import REFINE, climb
from autoprune.search.work import Refinement, TrialJob
from autoprune.tracking.records.trial import KeepMap


@dataclass(frozen=True)
class TrialWork:
    """What a worker needs beside the arrays; a :class:`~autoprune.search.work.Work`.

    ``rung_share`` is the share of the ``search`` images that rungs below the last are scored on,
    ``floors`` what of the dense model's ability has to stay.
    """

    small: bytes
    context: DecodeContext
    space: Space
    rung_share: float = 1.0
    floors: tuple[Floor, ...] = ()

    def open(self, arrays: Mapping[str, np.ndarray], resources: Resources) -> TrialBench:
        """Join the shared arrays and open the exams."""
        return TrialBench(Bench(Assets.join(self.small, arrays), resources), self)


class TrialBench:
    """A worker's tools; a :class:`~autoprune.search.work.Bench`."""

    def __init__(self, bench: Bench, work: TrialWork) -> None:
        self.bench = bench
        self.work = work
        self._last: tuple[dict[str, Value], Rescored] | None = None

    def candidate(
        self,
        knobs: Mapping[str, Value],
        seed: int,
        layout: Layout | None = None,
        plan: str = "",
    ) -> Candidate:
        """Decode knobs, with the recovery's subset and order drawn by ``seed``.

        Args:
            knobs: of the trial.
            seed: of the recovery.
            layout: takes the place of what the knobs say of sizes; the recipe stays theirs.
            plan: identity that a record has of the plan; empty where there is no record yet.

        Raises:
            AutoPruneError: the plan is another one than was recorded; or as ``decode``.
        """
        knobs = self.work.space.complete(knobs)
        context = replace(self.rescored(knobs).context, seed=seed)
        candidate = decode(knobs, context)
        if layout is not None:
            layers = plan_of(context.spec, unit_scores(knobs, context), layout)
            candidate = replace(candidate, plan=layers)
        if plan and plan != candidate.plan.identity:
            raise AutoPruneError(
                f"its knobs give plan {candidate.plan.identity} and its record has {plan}: another "
                "version of AutoPrune, another model or another machine made it; go on there, or "
                "search again under another --name"
            )
        return candidate

    def rescored(self, knobs: Mapping[str, Value]) -> Rescored:
        """Return what a plan of ``knobs`` (complete) is decoded with; measured once in a row.

        A row of trials that differ in their recovery alone shares one measurement. Its FLOPs are
        the cost of each of them all the same: what a trial costs must not depend on which worker
        it came to and what that had run before. Its seconds are those of the first alone.
        """
        asked = {name: value for name, value in knobs.items() if name not in OF_RECOVERY}
        if self._last is None or self._last[0] != asked:
            self._last = asked, rescored(knobs, self.work.context, self.bench)
        return self._last[1]

    def start(self, job: TrialJob) -> PipelineRun:
        """Build the candidate of a trial."""
        axis, share, floors = str(job.knobs["axis"]), self.work.rung_share, self.work.floors
        before = self._last
        again = self.rescored(self.work.space.complete(job.knobs))
        spent = {RESCORE: (again.seconds if self._last is not before else 0.0, again.flops)}
        if job.refinement is None:
            run = self.bench.start(self.candidate(job.knobs, job.seed))
            asked = asked_removed(
                self.work.space.complete(job.knobs), again.context, run.candidate.plan
            )
            bounds = self.work.context.bounds
            return PipelineRun(run, axis, share, None, spent, floors, bounds, asked)
        layout = job.refinement.layout
        if layout is None:
            started = time.perf_counter()
            layout, flops = self._climb(job, job.refinement)
            spent[REFINE] = (time.perf_counter() - started, flops)
        run = self.bench.start(self.candidate(job.knobs, job.seed, layout))
        axis = axis_of(self.work.context.spec, run.candidate.plan)
        return PipelineRun(run, axis, share, layout, spent, floors, self.work.context.bounds)

    def _climb(self, job: TrialJob, at: Refinement) -> tuple[Layout, float]:
        """Return the layout that a refined trial shall have, and the FLOPs of finding it."""
        knobs = self.work.space.complete(job.knobs)
        context, assets = self.rescored(knobs).context, self.bench.assets
        parent = self.candidate(job.knobs, job.seed, at.start, at.plan)
        importance, spent = unit_scores(knobs, context), 0.0

        def divergence(layout: Layout) -> float:
            nonlocal spent
            plan = plan_of(context.spec, importance, layout)
            spent += self.bench.forward_flops(plan.shapes, assets.probe)
            try:
                return self.bench.proxy(self.bench.prune(plan, parent.precision))
            except EvaluationFailed:
                return math.inf

        origin = layout_of(parent.plan)
        found = climb(
            origin, neighbours(origin, parent.precision, context), divergence, job.seed, job.number
        )
        return found.layout, spent


class PipelineRun:
    """One candidate under way; a :class:`~autoprune.search.work.TrialRun`.

    Args:
        run: the candidate's.
        axis: what was cut.
        rung_share: share of the images that rungs below the last are scored on.
        layout: of a refined candidate; None where the knobs say it.
        spent: seconds and FLOPs that finding the plan took, by stage; they count in the first rung.
        floors: what of the dense model's ability has to stay.
        bounds: prompt and device that memory and latency are said for.
        asked_removed: see :func:`asked_removed`.
    """

    def __init__(
        self,
        run: CandidateRun,
        axis: str,
        rung_share: float = 1.0,
        layout: Layout | None = None,
        spent: Mapping[str, tuple[float, float]] | None = None,
        floors: tuple[Floor, ...] = (),
        bounds: Bounds | None = None,
        asked_removed: float | None = None,
    ) -> None:
        self.run = run
        self.bounds = bounds
        self.asked_removed = asked_removed
        self.axis = axis
        self.rung_share = rung_share
        self.layout = layout
        self.floors = floors
        self._spent = {stage: cost for stage, cost in (spent or {}).items() if any(cost)}

    def describe(self) -> Mapping[str, Any]:
        """Return the record's fields that are known before any rung."""
        known = describe(self.run.candidate, self.run.assets.spec, self.axis, self.bounds)
        if self.asked_removed is not None:
            known["asked_removed"] = self.asked_removed
        return known if self.layout is None else {**known, "layout": self.layout.to_dict()}

    def rung(self, share: float, evaluate: bool = True) -> RungResult:
        """Recover up to ``share``; score on the ``search`` split, or by the proxy alone.

        What is unfinished is only compared with its like, so a share of the images is enough.
        """
        fraction = 1.0 if share >= 1.0 else self.rung_share
        result = self.run.rung(share, split="search" if evaluate else None, fraction=fraction)
        spent, self._spent = self._spent, {}
        seconds = {stage: cost[0] for stage, cost in spent.items()}
        flops = result.flops + sum(cost[1] for cost in spent.values())
        below = {}
        if result.scores is not None and result.dense is not None:
            below = missed(self.floors, result.scores, result.dense)
        return replace(result, seconds={**seconds, **result.seconds}, flops=flops, missed=below)

    def save(self, directory: Path) -> None:
        """Write what :meth:`load` needs."""
        self.run.save(directory)

    def load(self, directory: Path) -> None:
        """Go on from what :meth:`save` wrote; what the plan took counted in the rung before."""
        self.run.load(directory)
        self._spent = {}


def describe(
    candidate: Candidate, spec: BackboneSpec, axis: str, bounds: Bounds | None = None
) -> dict[str, Any]:
    """Return a candidate as fields of ``TrialRecord``, plain JSON values."""
    size = size_of(spec, candidate.plan)
    stored = stored_bytes(spec, candidate.plan, candidate.precision)
    kept = {layer.index: layer for layer in candidate.plan.layers}
    places = range(len(spec.layers))
    return {
        "axis": axis,
        "recovery": candidate.recipe.name,
        "data_fraction": candidate.recipe.data_fraction,
        "keep": KeepMap(
            heads=tuple(len(kept[i].heads) if i in kept else 0 for i in places),
            channels=tuple(len(kept[i].channels) if i in kept else 0 for i in places),
            dense_heads=tuple(shape.heads for shape in spec.layers),
            dense_channels=tuple(shape.channels for shape in spec.layers),
        ).model_dump(mode="json"),
        "plan": candidate.plan.identity,
        "params": size.params,
        "fraction": size.fraction,
        "backbone_removed": size.backbone_removed,
        "precision": candidate.precision,
        "bytes": stored,
        "bytes_fraction": stored / dense_bytes(spec, candidate.precision),
        **shares_of(bounds, candidate.plan, candidate.precision),
        "seed": candidate.recipe.seed,
    }


def axis_of(spec: BackboneSpec, plan: PruningPlan) -> str:
    """Return what a plan cuts: ``width``, ``depth``, or both, which is ``hybrid``."""
    deep = len(plan.layers) < len(spec.layers) or any(
        0 in (s.heads, s.channels) for s in plan.shapes
    )
    wide = any(
        (layer.heads and len(layer.heads) < spec.layers[layer.index].heads)
        or (layer.channels and len(layer.channels) < spec.layers[layer.index].channels)
        for layer in plan.layers
    )
    return "hybrid" if deep and wide else "depth" if deep else "width"
