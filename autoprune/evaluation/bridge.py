"""Many models, the same questions: lmms-eval task objects built once, answers by an engine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from autoprune.data.chat import tokenizer_of
from autoprune.data.encoding import IGNORED, EncodedSet, encode
from autoprune.data.fractions import nested_fraction
from autoprune.errors import AutoPruneError
from autoprune.evaluation import harness
from autoprune.evaluation.asked import AskedSet
from autoprune.evaluation.documents import Documents
from autoprune.evaluation.external import open_documents, opened
from autoprune.evaluation.generation import (
    AnswerEngine,
    GenericEngine,
    Question,
    finish,
)
from autoprune.evaluation.likelihood import Given, losses
from autoprune.evaluation.materials import SPLIT, manifest
from autoprune.evaluation.packed import PackedEngine, RoutedEngine
from autoprune.evaluation.reading import read_score
from autoprune.evaluation.scores import TaskScores
from autoprune.evaluation.sources import split_of
from autoprune.evaluation.tasks import TaskSpec
from autoprune.models.vision import vision_features


class Evaluator:
    """Scores models on the tasks of one directory; one instance a process serves them all.

    Attributes:
        specs: the tasks.
        images: how many images are asked about.
        questions: how many questions are asked, over all tasks.
    """

    def __init__(
        self,
        processor: Any,
        task_dir: Path,
        specs: Sequence[TaskSpec],
        *,
        fraction: float = 1.0,
        seed: int = 0,
        engine: Literal["packed", "generic"] | None = None,
        encoded: EncodedSet | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Load the task objects (about 0.1 s, after importing lmms-eval).

        Args:
            processor: of the models to come.
            task_dir: what :func:`autoprune.evaluation.tasks.materialise` returned.
            specs: which of its tasks.
            fraction: share of the images, in (0, 1]: stratified, seeded, nested, and the same
                images for every task.
            seed: draws them.
            engine: ``packed`` for decoders that take a block mask and short answers; ``generic``
                for any model that can ``generate``. By default, what suits ``encoded``.
            encoded: the whole sample set as the models read it, if the caller has it; packed
                rows stand for samples.
            batch_size: images (packed) or questions (generic) a batch.

        Raises:
            AutoPruneError: a task is missing, or the fraction leaves it without documents.
        """
        self.processor = processor
        self.task_dir = Path(task_dir)
        self.specs = tuple(specs)
        packed = encoded is None or encoded.packed
        self.engine = engine or ("packed" if packed else "generic")
        self.batch_size = batch_size or {"packed": 16, "generic": 32}[self.engine]
        self._note = manifest(self.task_dir)
        self._tasks, self._splits, self._docs = self._open()
        self._select(fraction, seed)
        self.images = len({i for docs in self._docs for i in docs.image_id})
        self.questions = sum(len(docs) for docs in self._docs)
        self._given = encoded
        self._packed: tuple[EncodedSet, Mapping[str, tuple[int, int]]] | None = None

    @property
    def encoded(self) -> EncodedSet:
        """The packed questions whose image rows ``features`` follow."""
        return self._encoding()[0]

    @property
    def docs(self) -> dict[str, list[str]]:
        """Names of the documents (questions) that are asked, by task."""
        return {s.name: docs.doc_id for s, docs in zip(self.specs, self._docs, strict=True)}

    def features(self, model: Any, batch_size: int = 64) -> np.ndarray | None:
        """Return the frozen vision features of all images, for :meth:`evaluate`.

        Every model that shares the vision tower of ``model`` can be evaluated on them.

        Returns:
            ``float32 [images, tokens, dim]`` by row of ``encoded.pixel_values``; None where
            there are no images, or the engine reads them itself.

        Raises:
            AutoPruneError: the encoded set has no pixels.
        """
        if self.engine == "generic" or not self.encoded.has_images:
            return None
        pixels = self.encoded.pixel_values
        if pixels is None:
            raise AutoPruneError("the encoded set has no pixels: encode it with its images")
        weight = next(model.parameters())
        with torch.no_grad():
            made = [
                vision_features(
                    model,
                    torch.from_numpy(pixels[start : start + batch_size]).to(
                        weight.device, weight.dtype
                    ),
                )
                for start in range(0, len(pixels), batch_size)
            ]
        return torch.cat(made).float().cpu().numpy()

    def evaluate(self, model: Any, features: np.ndarray | torch.Tensor | None = None) -> TaskScores:
        """Ask ``model`` every question and return its scores.

        Args:
            model: in any mode, on any device; it is asked in evaluation mode and left as it was.
            features: what :meth:`features` returned for a model with the same vision tower; the
                generic engine does not use them.

        Raises:
            EvaluationFailed: a logit is not finite.
            AutoPruneError: a score is missing or not one finite number.
            Exception: whatever the model raises; a broken model never gets a score.
        """
        started = time.perf_counter()
        engine = self._engine(features)
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            results = harness.run(
                self._tasks, partial(self._answer, model, engine), partial(self._rank, model)
            )
        finally:
            for module, training in modes:
                module.training = training
        with harness.quietly(), tempfile.TemporaryDirectory() as scratch:
            scores = tuple(
                read_score(spec, results, docs.doc_id, docs.image_id, task, scratch)
                for spec, docs, task in zip(self.specs, self._docs, self._tasks, strict=True)
            )
        return TaskScores(scores, seconds=time.perf_counter() - started)

    def _engine(self, features: np.ndarray | torch.Tensor | None) -> AnswerEngine:
        generic = GenericEngine(self.processor, self.batch_size)
        if self.engine == "generic":
            return generic
        encoded, places = self._encoding()
        tokenizer = tokenizer_of(self.processor)
        packed = PackedEngine(tokenizer, encoded, places, features, self.batch_size)
        return packed if len(places) == self.questions else RoutedEngine(packed, generic)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {spec.name: i for i, spec in enumerate(self.specs)}

    def _images_of(self, index: int, to_visual: Any, doc: int) -> Any:
        data = self._tasks[index].dataset[self._splits[index]]
        return partial(_images, data, doc, to_visual)

    def _answer(self, model: Any, engine: AnswerEngine, requests: list[Any]) -> list[str]:
        questions = []
        for request in requests:
            text, options, to_visual, doc, task, _ = request.args
            index = self._place[task]
            until = options.get("until") or ()
            questions.append(
                Question(
                    key=self._docs[index].doc_id[doc],
                    text=text,
                    images=self._images_of(index, to_visual, doc),
                    max_new_tokens=int(
                        options.get("max_new_tokens", self.specs[index].max_new_tokens)
                    ),
                    until=(until,) if isinstance(until, str) else tuple(until),
                )
            )
        return engine.answer(model, questions)

    def _rank(self, model: Any, requests: list[Any]) -> list[tuple[float, bool]]:
        asked = []
        for request in requests:
            text, given, to_visual, doc, task, split = request.args
            index = self._place[task]
            if callable(given):  # a task of one answer says how to read it
                given = given(self._tasks[index].dataset[split][doc])
            asked.append(Given(text, str(given), self._images_of(index, to_visual, doc)))
        return losses(self.processor, model, asked)

    # --- documents ------------------------------------------------------------------------------

    def _open(self) -> tuple[list[Any], list[str], list[Documents]]:
        """Open each task, and return it with the split of its data and its documents."""
        tasks, splits, found = [], [], []
        for spec in self.specs:
            docs = Documents.read(self.task_dir, spec.name)
            if docs is None:
                task, split = harness.load_task(spec.name, self.task_dir, SPLIT), SPLIT
                docs = _made(task)
            else:
                task = open_documents(spec, self.task_dir)
                split = split_of(vars(task.config))
            harness.only_metrics(task, spec.metrics)
            tasks.append(task)
            splits.append(split)
            found.append(docs)
        return tasks, splits, found

    def _select(self, fraction: float, seed: int) -> None:
        """Choose images for all tasks, and restrict the tasks to them."""
        place: dict[str, tuple[float, int]] = {}
        for docs in self._docs:
            for image, ring, stratum in zip(docs.image_id, docs.ring, docs.stratum, strict=True):
                place.setdefault(image, (ring, stratum))
        known = np.array(list(place))
        ring, strata = np.array(list(place.values())).T
        chosen = known[nested_fraction(ring, strata.astype(np.int64), fraction, seed)]
        for index, (spec, task, split) in enumerate(
            zip(self.specs, self._tasks, self._splits, strict=True)
        ):
            docs = self._docs[index]
            rows = np.flatnonzero(np.isin(docs.image_id, chosen))
            if not len(rows):
                raise AutoPruneError(
                    f"a fraction of {fraction:g} of {len(known)} images leaves no question for "
                    f"task {spec.name!r}: take a larger one"
                )
            used = None if spec.family is None else (task.config.doc_to_text, "answer")
            harness.select_docs(task, split, rows.tolist(), used)
            self._docs[index] = docs.only(rows)

    def _encoding(self) -> tuple[EncodedSet, Mapping[str, tuple[int, int]]]:
        if self._packed is None:
            self._packed = self._given_places() if self._given is not None else self._encode()
        return self._packed

    def _given_places(self) -> tuple[EncodedSet, Mapping[str, tuple[int, int]]]:
        """Find the documents in the caller's encoded set: rows are samples, segments turns."""
        encoded = self._given
        assert encoded is not None
        if not encoded.packed or len(encoded) != self._note["samples"]:
            raise AutoPruneError(
                f"an encoded set of {len(encoded)} rows was given for {self._note['samples']} "
                f"samples of {self._note['name']}: encode the same sample set, packed"
            )
        places = {
            key: (sample, turn + 1)
            for docs in self._docs
            for key, sample, turn, packed in zip(
                docs.doc_id, docs.sample, docs.turn, docs.packed, strict=True
            )
            if packed
        }
        self._check_belongs(encoded, places)
        return encoded, places

    def _check_belongs(
        self, encoded: EncodedSet, places: Mapping[str, tuple[int, int]], probes: int = 64
    ) -> None:
        """Compare some answers in ``encoded`` with the documents': another set has others."""
        docs = [
            (key, answer)
            for spec, columns in zip(self.specs, self._docs, strict=True)
            if spec.family is not None
            for key, answer in zip(columns.doc_id, columns.answer, strict=True)
        ]
        docs = docs[:: max(1, len(docs) // probes)]
        alike = 0
        for key, answer in docs:
            row, segment = places[key]
            span = slice(encoded.offsets[row], encoded.offsets[row + 1])
            labels = encoded.labels[span][encoded.segments[span] == segment]
            said = finish(tokenizer_of(self.processor), labels[labels != IGNORED].tolist(), ())
            alike += said.casefold().split() == answer.casefold().split()
        # A tokenizer may spell a few answers in its own way.
        if alike < 0.5 * len(docs):
            raise AutoPruneError(
                f"the encoded set that was given holds other answers than {self._note['name']} "
                f"({alike} of {len(docs)} agree): encode that sample set"
            )

    def _encode(self) -> tuple[EncodedSet, Mapping[str, tuple[int, int]]]:
        """Encode the chosen documents from the task directory, reading images one by one."""
        asked = AskedSet(self.task_dir.name)
        keys = [
            asked.add(docs, partial(self._shown, index), self.processor)
            for index, docs in enumerate(self._docs)
        ]
        places = {
            key: place
            for docs, found in zip(self._docs, keys, strict=True)
            for key, place, packed in zip(docs.doc_id, found, docs.packed, strict=True)
            if packed
        }
        return encode(asked, self.processor, packed=True), places

    def _shown(self, index: int, doc: int) -> list[Any]:
        task = self._tasks[index]
        return _images(task.dataset[self._splits[index]], doc, task.doc_to_visual)


def _made(task: Any) -> Documents:
    """Return the documents of a task that was made of a sample set: it has columns for it."""
    docs = task.test_docs_no_media()
    wanted = ("doc_id", "image_id", "sample", "turn", "question", "answer", "ring", "stratum")
    columns = {name: list(docs[name][:]) for name in wanted}
    return Documents(
        doc_id=columns["doc_id"],
        image_id=columns["image_id"],
        sample=columns["sample"],
        turn=columns["turn"],
        packed=[True] * len(docs),
        question=columns["question"],
        answer=columns["answer"],
        ring=columns["ring"],
        stratum=columns["stratum"],
    )


def _images(data: Any, doc: int, to_visual: Any) -> list[Any]:
    return opened(to_visual(data[doc]))
