"""The questions of tasks as a sample set, so that they are encoded as training data are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.data.samples import Sample, SampleSet, Turn
from autoprune.evaluation.documents import Documents
from autoprune.evaluation.external import open_documents, pictures
from autoprune.evaluation.generation import without_marks
from autoprune.evaluation.materials import manifest
from autoprune.evaluation.sources import split_of
from autoprune.evaluation.tasks import TaskSpec

NO_ANSWER = "-"
"""Stands where a task does not say what the right answer is."""

LONGEST = 200
"""Characters of an answer that are looked at: it only says how much work a question is."""


class AskedSet(Sequence[Sample]):
    """Samples whose pictures are read when asked for; a ``data.samples.SampleSet``.

    Args:
        identity: of what is asked.
        base: samples that come before those of the documents.
    """

    def __init__(self, identity: str, base: SampleSet | None = None) -> None:
        self._identity, self._base = identity, base
        self._rows: list[tuple[Callable[[], Any], list[Turn], float, int]] = []
        self._row_of: dict[int, int] = {}

    def add(
        self, docs: Documents, shown: Callable[[int], list[Any]], processor: Any
    ) -> list[tuple[int, int]]:
        """Append the documents of a task; return the row of each, and its segment there.

        Args:
            docs: of the task.
            shown: reads the pictures of one of them, by its place.
            processor: of the models that are asked: its marks of images leave the questions.
        """
        places = []
        order = sorted(range(len(docs)), key=lambda i: (docs.sample[i], docs.turn[i]))
        for i in order:
            row = self._row_of.setdefault(docs.sample[i], len(self._rows))
            if row == len(self._rows):
                read = _first(shown, i)
                self._rows.append((read, [], docs.ring[i], docs.stratum[i]))
            turns = self._rows[row][1]
            answer = docs.answer[i].strip()[:LONGEST].strip() or NO_ANSWER
            turns.append(Turn(without_marks(processor, docs.question[i]), answer, "task"))
            places.append((i, (row, len(turns))))
        return [place for _, place in sorted(places)]

    @property
    def name(self) -> str:
        """Short name."""
        return "the tasks' own documents" if self._base is None else self._base.name

    @property
    def identity(self) -> str:
        """Content hash."""
        return self._identity

    @property
    def ring(self) -> np.ndarray:
        """Place of each sample on the circle."""
        own = np.array([row[2] for row in self._rows], dtype=np.float64)
        return own if self._base is None else np.concatenate([self._base.ring, own])

    @property
    def strata(self) -> np.ndarray:
        """Stratum of each sample."""
        own = np.array([row[3] for row in self._rows], dtype=np.int64)
        return own if self._base is None else np.concatenate([self._base.strata, own])

    def __len__(self) -> int:
        return len(self._rows) + (0 if self._base is None else len(self._base))

    def __getitem__(self, index: Any) -> Any:
        before = 0 if self._base is None else len(self._base)
        if self._base is not None and index < before:
            return self._base[index]
        read, turns, _, _ = self._rows[index - before]
        return Sample(str(index), read(), tuple(turns))

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


def _first(shown: Callable[[int], list[Any]], doc: int) -> Callable[[], Any]:
    def read() -> Any:
        found = shown(doc)
        return found[0].convert("RGB") if found else None

    return read


def asked_in(
    folder: Path, specs: Sequence[TaskSpec], base: SampleSet | None, processor: Any
) -> SampleSet:
    """Return all samples of a directory of tasks, in the order of their numbers.

    Args:
        folder: of tasks, see ``materials.materialise``.
        specs: its tasks.
        base: the sample set that some of them are made of.
        processor: of the models that are asked.
    """
    asked = AskedSet(str(manifest(folder)["identity"]), base)
    for spec in specs:
        docs = Documents.read(folder, spec.name)
        if docs is not None:
            task = open_documents(spec, folder)
            asked.add(docs, partial(pictures, task, split_of(vars(task.config))), processor)
    return asked
