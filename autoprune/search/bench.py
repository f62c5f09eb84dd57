"""What a worker does with a trial: decode its knobs, and run the candidate rung by rung."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.cost.bytes import dense_bytes, stored_bytes
from autoprune.cost.parameters import size_of
from autoprune.models.shape import BackboneSpec
from autoprune.pipeline.assets import Assets
from autoprune.pipeline.candidate import Candidate
from autoprune.pipeline.run import Bench, CandidateRun, RungResult
from autoprune.resources import Resources
from autoprune.search.decode import DecodeContext, decode
from autoprune.search.space import Space, Value
from autoprune.search.work import TrialJob
from autoprune.tracking.records import KeepMap


@dataclass(frozen=True)
class TrialWork:
    """What a worker needs beside the arrays; a :class:`~autoprune.search.work.Work`."""

    small: bytes
    context: DecodeContext
    space: Space

    def open(self, arrays: Mapping[str, np.ndarray], resources: Resources) -> TrialBench:
        """Join the shared arrays and open the exams."""
        return TrialBench(Bench(Assets.join(self.small, arrays), resources), self)


class TrialBench:
    """A worker's tools; a :class:`~autoprune.search.work.Bench`."""

    def __init__(self, bench: Bench, work: TrialWork) -> None:
        self.bench = bench
        self.work = work

    def candidate(self, knobs: Mapping[str, Value], seed: int) -> Candidate:
        """Decode knobs, with the recovery's subset and order drawn by ``seed``."""
        return decode(self.work.space.complete(knobs), replace(self.work.context, seed=seed))

    def start(self, job: TrialJob) -> PipelineRun:
        """Build the candidate of a trial."""
        candidate = self.candidate(job.knobs, job.seed)
        return PipelineRun(self.bench.start(candidate), str(job.knobs["axis"]))


class PipelineRun:
    """One candidate under way; a :class:`~autoprune.search.work.TrialRun`."""

    def __init__(self, run: CandidateRun, axis: str) -> None:
        self.run = run
        self.axis = axis

    def describe(self) -> Mapping[str, Any]:
        """Return the record's fields that are known before any rung."""
        return describe(self.run.candidate, self.run.assets.spec, self.axis)

    def rung(self, share: float, evaluate: bool = True) -> RungResult:
        """Recover up to ``share``; score on the ``search`` split, or by the proxy alone."""
        return self.run.rung(share, split="search" if evaluate else None)

    def save(self, directory: Path) -> None:
        """Write what :meth:`load` needs."""
        self.run.save(directory)

    def load(self, directory: Path) -> None:
        """Go on from what :meth:`save` wrote."""
        self.run.load(directory)


def describe(candidate: Candidate, spec: BackboneSpec, axis: str) -> dict[str, Any]:
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
        "params": size.params,
        "fraction": size.fraction,
        "backbone_removed": size.backbone_removed,
        "precision": candidate.precision,
        "bytes": stored,
        "bytes_fraction": stored / dense_bytes(spec, candidate.precision),
        "seed": candidate.recipe.seed,
    }
