"""A checkpoint's scores on the tasks, beside those of the dense model that it was cut from."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.search.options import flag

if TYPE_CHECKING:
    from autoprune.data.splits import DataSpec
    from autoprune.evaluation.retention import Interval, Retention
    from autoprune.evaluation.scores import TaskScores
    from autoprune.models.loading import Inspected

SPLITS = ("all", "search", "confirm")
"""Splits that a model may be scored on; ``all`` is every document of tasks that bring their own,
and of a user's data the rows of both other splits.

``report`` is for experiments: a choice that is made by its scores would spoil it.
"""
SCORES_FILE = "scores.json"

PACKED_AT_MOST = 2048
"""Pictures that are held at once, so that questions about one share its row; more are read one
batch after the other."""


@dataclass(frozen=True)
class Scored:
    """One model on the tasks of a split.

    Attributes:
        ref: the model as it was named.
        params: its parameters.
        quantised: the precision of its backbone, where it is quantised.
        split: where the questions are from.
        questions, images: how many there were.
        scores: task -> score, 0..1.
        dense_ref: the dense model, where it is known.
        dense_params: its parameters.
        dense_scores: its scores on the same questions.
        retention: against the dense model; 1.0 keeps everything.
        interval: of the retention, over images (one model, one seed).
        seconds: spent answering.
    """

    ref: str
    params: int
    split: str
    questions: int
    images: int
    scores: dict[str, float]
    seconds: float
    quantised: str | None = None
    dense_ref: str | None = None
    dense_params: int | None = None
    dense_scores: dict[str, float] | None = None
    retention: Retention | None = None
    interval: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``evaluate --json`` prints."""
        value: dict[str, Any] = {
            "model": self.ref,
            "params": self.params,
            "quantised": self.quantised,
            "split": self.split,
            "questions": self.questions,
            "images": self.images,
            "scores": self.scores,
            "dense": None,
            "retention": None,
            "retention_raw": None,
            "left_out": [],
            "seconds": self.seconds,
        }
        if self.dense_ref is not None:
            value["dense"] = {
                "model": self.dense_ref,
                "params": self.dense_params,
                "scores": self.dense_scores,
            }
        if self.retention is not None and self.interval is not None:
            value["retention"] = {
                "mean": self.retention.value,
                "low": self.interval.low,
                "high": self.interval.high,
                "seeds": 1,
            }
            value["retention_raw"] = self.retention.raw
            value["left_out"] = list(self.retention.left_out)
        return value


def score_model(
    ref: str,
    *,
    tasks: Sequence[str] = (),
    data: DataSpec | None = None,
    split: str | None = None,
    samples: int | None = None,
    dense: str | None = None,
    task_data: Sequence[str] = (),
    capabilities: Sequence[str] = (),
    gpus: float = 0.0,
    on_stage: Callable[[str], None] = lambda text: None,
) -> Scored:
    """Score a model, and its dense model on the same questions where that is known.

    Args:
        ref: a checkpoint directory, ``embedded``, or a hub name.
        tasks: names; by default held-out rows of ``data``, or all of the embedded data.
        data: of the user's, whose held-out rows are asked as a search on it asks them.
        split: one of ``SPLITS``; None: all of tasks that bring their own documents, ``confirm`` of
            the others.
        samples: images to ask about; by default all of the split.
        task_data, capabilities: see ``resolve_tasks``.
        dense: the dense model to compare with; by default the one that the checkpoint names.
        gpus: 0 computes on the CPU.
        on_stage: told what begins.

    Raises:
        AutoPruneError: an unknown model, task or split, or a model that cannot be scored.
    """
    from autoprune.models.loading import inspect_model
    from autoprune.pipeline.prepare import check_ability
    from autoprune.search.exams import metric_notes, named_tasks
    from autoprune.search.preflight import check_tasks
    from autoprune.zoo import EMBEDDED, embedded_path

    if split is not None and split not in SPLITS:
        raise AutoPruneError(f"unknown split {split!r}{did_you_mean(split, SPLITS)}")
    if samples is not None and samples < 1:
        raise AutoPruneError(f"--samples {samples} is below 1: give 1 or more")
    if data is not None and tasks:
        refs = ",".join(source.ref for source in data.sources)
        raise AutoPruneError(
            f"--tasks {','.join(tasks)} and --data {refs} are two exams: leave --tasks out to ask "
            "about rows of the data, or --data to ask the tasks"
        )
    if ref.rpartition(":")[2].isdigit() and ":" in ref and not Path(ref).exists():
        raise AutoPruneError(
            f"{ref} names a trial, and evaluate takes a checkpoint: 'autoprune export {ref} -o "
            "DIR' writes one"
        )
    specs = named_tasks(tasks, data, task_data, capabilities)
    split = split or ("confirm" if all(spec.family for spec in specs) else "all")
    check_tasks(specs, {split: samples})
    for note in metric_notes(specs):
        on_stage(note)
    named = {EMBEDDED: embedded_path}
    found = inspect_model(ref, named)
    base = _dense_of(found, dense, named)
    if data is not None and _searched(found.directory).get("data_identity", "") not in (
        "",
        data.identity,
    ):
        on_stage(
            f"{ref} was recovered on other data, or on other sources or weights of it: "
            "what is held out here may be what it was trained on"
        )
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        exam = _Exam(specs, data, split, samples, Path(folder), gpus, on_stage)
        params, scores = exam.score(ref, named)
        below = None
        if base is not None:
            below = exam.score(base, named)
            check_ability(_sees(inspect_model(base, named)), below[1])
    scored = _scored(ref, split, params, scores, base, below)
    return replace(scored, quantised=found.quantised)


def _sees(found: Inspected) -> bool:
    """Whether a model reads images."""
    from autoprune.models.families import wrapper_of

    return wrapper_of(found.config).projector is not None


def evaluate_command(directory: Path) -> str:
    """Return the line that asks a checkpoint what the search asked that it comes from."""
    settings = _searched(directory)
    words = ["autoprune", "evaluate", str(directory)]
    fields = ("tasks", "task_data") if settings.get("tasks") else ("data", "images", "columns")
    for field in fields:
        value = settings.get(field) or ()
        for item in [value] if isinstance(value, str) else value:
            words += [flag(field), str(item)]
    return shlex.join(words)


def _searched(directory: Path) -> dict[str, Any]:
    """Return the settings of the search that a checkpoint's card tells of; empty without one."""
    from autoprune.deploy.card import SEARCH

    try:
        return dict(json.loads((directory / SEARCH).read_text())["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


class _Exam:
    """The tasks of a split, written once and asked of one model after the other."""

    def __init__(
        self,
        specs: Sequence[Any],
        data: DataSpec | None,
        split: str,
        samples: int | None,
        folder: Path,
        gpus: float,
        on_stage: Callable[[str], None],
    ) -> None:
        from autoprune.resources import Resources

        self.device = Resources(gpus=gpus).device()
        self.specs, self.data, self.split, self.size = specs, data, split, samples
        self.folder, self.on_stage = folder, on_stage

    def score(self, ref: str, named: Any) -> tuple[int, TaskScores]:
        """Return a model's parameters and its scores; the model is not kept."""
        import torch

        from autoprune.data.encoding import encode_for
        from autoprune.evaluation.bridge import Evaluator
        from autoprune.models.loading import inspect_model, load_model
        from autoprune.pipeline.prepare import exam_of, working_precision
        from autoprune.resources import suited_threads
        from autoprune.zoo import splits_of

        self.on_stage(f"load {ref}")
        dtype = getattr(torch, working_precision(inspect_model(ref, named)))
        loaded = load_model(ref, dtype, self.device, named=named)
        self.on_stage(f"write the tasks of split {self.split}")
        folder, specs, samples = exam_of(
            splits_of(self.data), self.split, self.size, self.specs, self.folder, loaded.processor
        )
        if len(samples) > PACKED_AT_MOST:
            evaluator = Evaluator(loaded.processor, folder, specs, engine="generic")
        else:
            encoded = encode_for(loaded.config, samples, loaded.processor, keep=0)
            evaluator = Evaluator(loaded.processor, folder, specs, encoded=encoded)
        self.on_stage(f"ask {ref} {evaluator.questions:,} questions on {evaluator.images} images")
        with suited_threads(loaded.spec.total_params):
            return loaded.spec.total_params, evaluator.evaluate(loaded.model)


def _dense_of(found: Inspected, typed: str | None, named: Any) -> str | None:
    """Return the dense model to compare with: as typed, or as the checkpoint's scores name it.

    A dense model that is named and is not to be had, or is another one by now, counts as unknown.
    """
    from autoprune.models.loading import inspect_model

    if typed is not None:
        inspect_model(typed, named)
        return typed
    try:
        note = json.loads((found.directory / SCORES_FILE).read_text())["dense"]
        there = inspect_model(note["model"], named)
    except (OSError, ValueError, KeyError, TypeError, AutoPruneError):
        return None
    return str(note["model"]) if there.identity == note["identity"] else None


def _scored(
    ref: str,
    split: str,
    params: int,
    scores: TaskScores,
    base: str | None,
    below: tuple[int, TaskScores] | None,
) -> Scored:
    from autoprune.evaluation.retention import bootstrap, retention

    images = {str(image) for task in scores.tasks for image in task.images}
    common: dict[str, Any] = {
        "ref": ref,
        "params": params,
        "split": split,
        "questions": scores.questions,
        "images": len(images),
        "scores": scores.by_task,
        "seconds": scores.seconds,
    }
    if below is None:
        return Scored(**common)
    dense_params, dense_scores = below
    return Scored(
        **common,
        dense_ref=base,
        dense_params=dense_params,
        dense_scores=dense_scores.by_task,
        retention=retention(scores, dense_scores),
        interval=bootstrap(scores, dense_scores),
    )
