"""What an evaluation returns: per task a score, and the documents that it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autoprune.errors import AutoPruneError


class EvaluationFailed(AutoPruneError):  # noqa: N818 - a verdict on one model, read in records
    """A model that cannot be scored: it raises, or its logits are not finite.

    The trial that it belongs to has failed; it never gets a score instead.
    """

    exit_code = 1


@dataclass(frozen=True)
class TaskScore:
    """One model on one task.

    Attributes:
        name: the task.
        metric: the lmms-eval result that the score was read from.
        chance: the score of guessing, 0..1; 0 where it is not known.
        score: 0..1, higher is better.
        docs: ``str [n]``, one name per document (question).
        images: ``str [n]``, the image of each document: what is resampled together.
        values: ``float64 [n]``, what each document adds to ``score`` (which is their mean), or
            ``None`` for a metric that is no mean over documents.
        influence: ``float64 [n]`` with mean 0, where ``values`` is None: how far each document
            moves the score, for intervals. None where that is not known either.
    """

    name: str
    metric: str
    chance: float
    score: float
    docs: np.ndarray
    images: np.ndarray
    values: np.ndarray | None
    influence: np.ndarray | None = None

    @property
    def parts(self) -> np.ndarray | None:
        """What to resample: the values, or the score and the influence; their mean is the score."""
        if self.values is not None or self.influence is None:
            return self.values
        moved: np.ndarray = self.score + self.influence
        return moved

    def __post_init__(self) -> None:
        if not np.isfinite(self.score):
            raise AutoPruneError(f"score {self.score} of task {self.name!r} is not a number")
        if len(self.docs) != len(self.images) or (
            self.values is not None and len(self.docs) != len(self.values)
        ):
            raise AutoPruneError(
                f"task {self.name!r} has {len(self.docs)} documents, {len(self.images)} images and "
                f"{0 if self.values is None else len(self.values)} values: give one of each"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, documents included."""
        return {
            "name": self.name,
            "metric": self.metric,
            "chance": self.chance,
            "score": self.score,
            "docs": self.docs.tolist(),
            "images": self.images.tolist(),
            "values": None if self.values is None else self.values.tolist(),
            **({} if self.influence is None else {"influence": self.influence.tolist()}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskScore:
        """Rebuild what :meth:`to_dict` wrote."""
        values, influence = data["values"], data.get("influence")
        return cls(
            name=data["name"],
            metric=data["metric"],
            chance=float(data["chance"]),
            score=float(data["score"]),
            docs=np.asarray(data["docs"], dtype=np.str_),
            images=np.asarray(data["images"], dtype=np.str_),
            values=None if values is None else np.asarray(values, dtype=np.float64),
            influence=None if influence is None else np.asarray(influence, dtype=np.float64),
        )


@dataclass(frozen=True)
class TaskScores:
    """One model on all its tasks, on one choice of documents.

    Attributes:
        tasks: in the order asked for, names unique.
        seconds: wall time of the evaluation.
    """

    tasks: tuple[TaskScore, ...]
    seconds: float = 0.0

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) != len(names):
            raise AutoPruneError(f"tasks {names} must be at least one, each once")

    def __getitem__(self, name: str) -> TaskScore:
        for task in self.tasks:
            if task.name == name:
                return task
        raise KeyError(name)

    @property
    def by_task(self) -> dict[str, float]:
        """Score 0..1 by task name."""
        return {task.name: task.score for task in self.tasks}

    @property
    def average(self) -> float:
        """Plain mean of the scores over tasks."""
        return float(np.mean([task.score for task in self.tasks]))

    @property
    def questions(self) -> int:
        """Number of documents over all tasks."""
        return sum(len(task.docs) for task in self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, documents included."""
        return {"tasks": [task.to_dict() for task in self.tasks], "seconds": self.seconds}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskScores:
        """Rebuild what :meth:`to_dict` wrote."""
        tasks = tuple(TaskScore.from_dict(task) for task in data["tasks"])
        return cls(tasks=tasks, seconds=float(data["seconds"]))


def restricted(scores: TaskScores, like: TaskScores) -> TaskScores:
    """Return ``scores`` on the documents of ``like`` alone, as :func:`on_documents` does."""
    return on_documents(scores, {task.name: task.docs.tolist() for task in like.tasks})


def on_documents(scores: TaskScores, docs: Mapping[str, Sequence[str]]) -> TaskScores:
    """Return ``scores`` on some documents of each task alone, in the order given.

    Raises:
        AutoPruneError: a task or a document is not there, or a task has no values a document, so
            that its score on some of them is not known.
    """
    tasks = []
    for name, wanted in docs.items():
        task = next((t for t in scores.tasks if t.name == name), None)
        place = {} if task is None else {doc: row for row, doc in enumerate(task.docs.tolist())}
        missing = [doc for doc in wanted if doc not in place]
        if task is None or missing or task.values is None:
            raise AutoPruneError(
                f"task {name!r} has no score of its own for each of the {len(wanted)} documents "
                "asked for: evaluate on all of them"
            )
        rows = [place[doc] for doc in wanted]
        values = task.values[rows]
        tasks.append(
            replace(
                task,
                score=float(values.mean()),
                docs=task.docs[rows],
                images=task.images[rows],
                values=values,
            )
        )
    return TaskScores(tuple(tasks))


def require_paired(*scores: TaskScores) -> None:
    """Check that all ``scores`` are of the same tasks on the same documents.

    Raises:
        AutoPruneError: otherwise; retention compares question by question.
    """
    first = scores[0]
    for other in scores[1:]:
        if [t.name for t in first.tasks] != [t.name for t in other.tasks]:
            raise AutoPruneError(
                f"scores of tasks {[t.name for t in other.tasks]} cannot be compared with scores "
                f"of tasks {[t.name for t in first.tasks]}: evaluate both on the same tasks"
            )
        for a, b in zip(first.tasks, other.tasks, strict=True):
            if a.docs is not b.docs and not np.array_equal(a.docs, b.docs):
                raise AutoPruneError(
                    f"task {a.name!r} was scored on {len(a.docs)} and on {len(b.docs)} documents "
                    "that are not the same ones: evaluate both on the same subset"
                )
