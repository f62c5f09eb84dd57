"""One candidate under way: prune, recover in pieces, score. What a trial and ``apply`` run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.cost.flops import ModelFlops, flops_of
from autoprune.data.encoding import EncodedSet
from autoprune.errors import AutoPruneError
from autoprune.evaluation.bridge import Evaluator
from autoprune.evaluation.proxy import kl_to_dense
from autoprune.evaluation.retention import kept_tasks, retention
from autoprune.evaluation.scores import TaskScores, on_documents, restricted
from autoprune.models.precision import PRECISIONS
from autoprune.models.quantise import quantised_copy
from autoprune.models.shape import LayerShape
from autoprune.pipeline.assets import Assets
from autoprune.pipeline.candidate import Candidate
from autoprune.pipeline.prepare import dense_model, open_evaluators
from autoprune.pruning.plan import PruningPlan
from autoprune.pruning.surgery import prune
from autoprune.recovery.loop import Recovery
from autoprune.recovery.teacher import open_teacher
from autoprune.resources import Resources

LEAST_IMAGES = 64
"""A part of an exam has so many images at least: fewer say too little about anything."""

STATE = "recovery.pt"
"""Name of the file that a paused run is kept in."""


@dataclass(frozen=True)
class RungResult:
    """What is known of a candidate after a share of its recovery.

    Attributes:
        share: of the recovery's updates, 0 (only pruned) to 1 (full fidelity).
        proxy_kl: nats an answer token to the dense model, on calibration samples.
        scores: on the split's tasks, where it was evaluated.
        retention: of the dense model's ability, chance-corrected.
        retention_raw: the plain ratio of scores.
        per_task: score by task.
        dense: scores of the dense model on the same documents.
        missed: floor -> by how much it is below; told by who knows the floors.
        seconds: by stage (prune, recover, quantise, proxy, evaluate), of this rung alone.
        flops: floating-point operations of this rung alone.
        loss: the recovery's running loss, where it trains.
    """

    share: float
    proxy_kl: float
    scores: TaskScores | None = None
    retention: float | None = None
    retention_raw: float | None = None
    per_task: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    flops: float = 0.0
    loss: float | None = None
    dense: TaskScores | None = None
    missed: Mapping[str, float] = field(default_factory=dict)


class Bench:
    """A process's tools: opened once, shared by all candidates that it runs."""

    def __init__(
        self, assets: Assets, resources: Resources, splits: Sequence[str] | None = None
    ) -> None:
        """Open the exams of ``splits`` (all) and the teacher on the device of ``resources``."""
        self.assets = assets
        self.device = resources.claim()
        opened = open_evaluators(assets, splits)
        self._evaluators = {(split, 1.0): found for split, found in opened.items()}
        self._enough: dict[tuple[str, float], bool] = {}
        self.teacher = open_teacher(
            assets.teacher, self.device, partial(dense_model, assets, self.device)
        )
        tokens = assets.train.image_tokens or None
        self.flops: ModelFlops = flops_of(assets.config, tokens)

    def evaluator(self, split: str, fraction: float = 1.0) -> Evaluator:
        """Return the exam of a split, on a share of its images: opened once a process."""
        if (split, fraction) not in self._evaluators:
            made = open_evaluators(self.assets, (split,), fraction)[split]
            self._evaluators[split, fraction] = made
        return self._evaluators[split, fraction]

    def part(self, split: str, fraction: float) -> float:
        """Return the share of a split's images that a part of it needs, from ``fraction`` up.

        It has ``LEAST_IMAGES`` at least, and the tasks that count on all images count on it. Where
        the dense model's score on some documents cannot be told from that on all, it is everything.
        """
        fraction = max(fraction, min(1.0, LEAST_IMAGES / self.evaluator(split).images))
        if fraction < 1.0 and (split, fraction) not in self._enough:
            self._enough[split, fraction] = self._is_enough(split, fraction)
        return fraction if self._enough.get((split, fraction)) else 1.0

    def _is_enough(self, split: str, fraction: float) -> bool:
        dense = self.assets.exams[split].dense
        try:
            docs = self.evaluator(split, fraction).docs
            return kept_tasks(on_documents(dense, docs)) == kept_tasks(dense)
        except AutoPruneError:  # a task without questions or values, or none above chance
            return False

    def start(self, candidate: Candidate) -> CandidateRun:
        """Prune the dense model to ``candidate``, ready to recover."""
        return CandidateRun(self, candidate)

    def prune(self, plan: PruningPlan, precision: str) -> Any:
        """Return the un-recovered model of a plan, as recovery takes it."""
        return prune(
            self.assets.config,
            self.assets.weights,
            plan,
            getattr(torch, PRECISIONS[precision].dtype),
            self.device,
            spec=self.assets.spec,
            generation_config=self.assets.generation_config,
        )

    def proxy(self, model: Any) -> float:
        """Return a model's mean KL divergence from the dense one, nats an answer token."""
        teacher = self.assets.probe_teacher
        assert teacher.hidden is not None  # prepared without a limit
        return kl_to_dense(
            model,
            self.assets.probe,
            np.arange(len(self.assets.probe)),
            teacher.hidden,
            teacher.head_weight,
            teacher_bias=teacher.head_bias,
            features=teacher.features,
        )

    def forward_flops(self, shapes: Sequence[LayerShape], encoded: EncodedSet) -> float:
        """Count a forward pass over all of ``encoded``."""
        # A model that is run whole has no features to keep: its tower runs each time.
        work = self.flops.forward(shapes, vision=encoded.whole, **lengths(encoded))
        return len(encoded) * work


class CandidateRun:
    """A candidate from dense weights to scores, rung by rung.

    Rungs are pauses of one planned recovery (its schedule spans all of it), so a run that
    goes on from a rung equals one that was never interrupted.

    A candidate of a quantised precision is recovered as it is and quantised behind the last
    rung, before that is scored: rungs below full fidelity score it unquantised. What
    :meth:`finish` returns is unquantised, too; quantising that gives what was scored.

    Args:
        bench: the process's tools.
        candidate: what to build.
    """

    def __init__(self, bench: Bench, candidate: Candidate) -> None:
        self.bench = bench
        self.assets = bench.assets
        self.candidate = candidate
        self._seconds: dict[str, float] = {}
        self._counted = 0
        self._quantised: Any = None
        with self._timed("prune"):
            model = bench.prune(candidate.plan, candidate.precision)
            self.recovery = Recovery(
                model, self.assets.train, bench.teacher, candidate.recipe, bench.device
            )

    def rung(
        self, share: float, *, split: str | None = "search", fraction: float = 1.0
    ) -> RungResult:
        """Recover up to ``share`` of the plan and score.

        Args:
            share: 0 scores the candidate as pruned.
            split: whose tasks to score on; None leaves it at the KL proxy.
            fraction: share of the split's images, see ``Bench.part``; fewer are enough to compare
                what is unfinished.

        Raises:
            RecoveryDiverged: if the loss leaves the finite numbers.
            EvaluationFailed: if the model cannot be scored.
        """
        if split is not None and fraction < 1.0:
            fraction = self.bench.part(split, fraction)
        with self._timed("recover"):
            done = self._quantised is not None
            progress = self.recovery.progress if done else self.recovery.run(share)
        if share >= 1.0 and not done and PRECISIONS[self.candidate.precision].storage:
            with self._timed("quantise"):
                self._quantised = quantised_copy(self.finish(), self.candidate.precision)
        with self._timed("proxy"):
            proxy = self.proxy()
        scores = None
        if split is not None:
            with self._timed("evaluate"):
                scores = self.score(split, fraction)
        kept = dense = None
        if split is not None and scores is not None:
            whole = self.assets.exams[split].dense
            dense = whole if fraction == 1.0 else restricted(whole, scores)
            kept = retention(scores, dense)
        seconds, self._seconds = self._seconds, {}
        return RungResult(
            share=share,
            proxy_kl=proxy,
            scores=scores,
            retention=None if kept is None else kept.value,
            retention_raw=None if kept is None else kept.raw,
            per_task={} if scores is None else scores.by_task,
            seconds=seconds,
            flops=self._flops(progress.samples, split, fraction),
            loss=None if np.isnan(progress.loss) else progress.loss,
            dense=dense,
        )

    @property
    def model(self) -> Any:
        """The model as it stands: quantised, where that is asked for and its recovery is done."""
        return self.recovery.model if self._quantised is None else self._quantised

    def proxy(self) -> float:
        """Return the mean KL divergence from the dense model, nats an answer token."""
        return self.bench.proxy(self.model)

    def score(self, split: str, fraction: float = 1.0) -> TaskScores:
        """Score the model as it stands on a split's tasks, or on a share of its images."""
        exam = self.assets.exams[split]
        return self.bench.evaluator(split, fraction).evaluate(self.model, exam.features)

    def finish(self) -> Any:
        """Return the recovered model, LoRA merged, not quantised."""
        return self.recovery.finish()

    def save(self, directory: Path) -> None:
        """Write what :meth:`load` needs to go on from the last rung."""
        directory.mkdir(parents=True, exist_ok=True)
        state = {
            "candidate": self.candidate.identity,
            "recovery": self.recovery.state_dict(),
            "counted": self._counted,
        }
        torch.save(state, directory / (STATE + ".part"))
        shutil.move(directory / (STATE + ".part"), directory / STATE)

    def load(self, directory: Path) -> None:
        """Go on from what :meth:`save` wrote.

        Raises:
            ValueError: if it was written for another candidate.
        """
        state = torch.load(directory / STATE, map_location="cpu", weights_only=False)
        if state["candidate"] != self.candidate.identity:
            raise ValueError(f"{directory} holds another candidate's recovery")
        self.recovery.load_state_dict(state["recovery"])
        self._counted = state["counted"]

    def _flops(self, samples: int, split: str | None, fraction: float) -> float:
        """Count the work since the last rung: recovery, proxy and evaluation."""
        shapes, recipe = self.candidate.plan.shapes, self.candidate.recipe
        cost = self.bench.flops
        work = (samples - self._counted) * cost.step(
            shapes,
            scope=recipe.scope,
            checkpointing=recipe.checkpointing,
            vision=self.assets.train.whole,
            **lengths(self.assets.train),
        )
        self._counted = samples
        scored = [(self.assets.probe, 1.0)]
        if split is not None:
            scored.append((self.assets.exams[split].encoded, fraction))
        for encoded, part in scored:
            work += part * self.bench.forward_flops(shapes, encoded)
        return work

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - start


def lengths(encoded: EncodedSet) -> dict[str, Any]:
    """Return the mean length of a row and how many of its positions predict an answer."""
    rows = max(1, len(encoded))
    return {
        "tokens": round(len(encoded.input_ids) / rows),
        "predicted": round(encoded.num_answer_tokens / rows),
        "images": int(encoded.has_images),
    }
