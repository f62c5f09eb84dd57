"""Many models, the same questions: lmms-eval task objects built once, answers by an engine."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from autoprune.data.chat import tokenizer_of
from autoprune.data.encoding import IGNORED, EncodedSet, encode
from autoprune.data.fractions import nested_fraction
from autoprune.data.samples import Sample, Turn
from autoprune.errors import AutoPruneError
from autoprune.evaluation import harness
from autoprune.evaluation.generation import (
    AnswerEngine,
    GenericEngine,
    PackedEngine,
    Question,
    finish,
)
from autoprune.evaluation.scores import TaskScore, TaskScores
from autoprune.evaluation.tasks import SPLIT, TaskSpec, manifest
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
        self._tasks = [harness.load_task(spec.name, self.task_dir, SPLIT) for spec in self.specs]
        self._docs = self._select(fraction, seed)
        self.images = len({i for docs in self._docs for i in docs["image_id"]})
        self.questions = sum(len(docs["doc_id"]) for docs in self._docs)
        self._given = encoded
        self._packed: tuple[EncodedSet, Mapping[str, tuple[int, int]]] | None = None

    @property
    def encoded(self) -> EncodedSet:
        """The packed questions whose image rows ``features`` follow."""
        return self._encoding()[0]

    @property
    def docs(self) -> dict[str, list[str]]:
        """Names of the documents (questions) that are asked, by task."""
        return {s.name: docs["doc_id"] for s, docs in zip(self.specs, self._docs, strict=True)}

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
            results = harness.run(self._tasks, partial(self._answer, model, engine))
        finally:
            for module, training in modes:
                module.training = training
        scores = tuple(
            _read(spec, results, docs["doc_id"], docs["image_id"])
            for spec, docs in zip(self.specs, self._docs, strict=True)
        )
        return TaskScores(scores, seconds=time.perf_counter() - started)

    def _engine(self, features: np.ndarray | torch.Tensor | None) -> AnswerEngine:
        if self.engine == "generic":
            return GenericEngine(self.processor, self.batch_size)
        encoded, places = self._encoding()
        tokenizer = tokenizer_of(self.processor)
        return PackedEngine(tokenizer, encoded, places, features, self.batch_size)

    def _answer(self, model: Any, engine: AnswerEngine, requests: list[Any]) -> list[str]:
        place = {spec.name: i for i, spec in enumerate(self.specs)}
        questions = []
        for request in requests:
            text, options, to_visual, doc, task, split = request.args
            index = place[task]
            questions.append(
                Question(
                    key=self._docs[index]["doc_id"][doc],
                    text=text,
                    images=partial(_images, self._tasks[index].dataset[split], doc, to_visual),
                    max_new_tokens=int(options.get("max_new_tokens", 16)),
                    until=tuple(options.get("until") or ()),
                )
            )
        return engine.answer(model, questions)

    # --- documents ------------------------------------------------------------------------------

    def _select(self, fraction: float, seed: int) -> list[dict[str, list[Any]]]:
        """Choose images for all tasks, restrict the tasks to them, and return their columns."""
        all_docs = [task.test_docs_no_media() for task in self._tasks]
        place: dict[int, tuple[float, int]] = {}
        for docs in all_docs:
            columns = [docs[name][:] for name in ("sample", "ring", "stratum")]
            place.update({i: (ring, stratum) for i, ring, stratum in zip(*columns, strict=True)})
        known = np.array(sorted(place))
        ring, strata = np.array([place[i] for i in known.tolist()]).T
        chosen = known[nested_fraction(ring, strata.astype(np.int64), fraction, seed)]
        selected = []
        for spec, task, docs in zip(self.specs, self._tasks, all_docs, strict=True):
            rows = np.flatnonzero(np.isin(docs["sample"][:], chosen))
            if not len(rows):
                raise AutoPruneError(
                    f"a fraction of {fraction:g} of {len(known)} images leaves no question for "
                    f"task {spec.name!r}: take a larger one"
                )
            selected.append(harness.select_docs(task, SPLIT, rows.tolist()))
        return selected

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
            for key, sample, turn in zip(docs["doc_id"], docs["sample"], docs["turn"], strict=True)
        }
        self._check_belongs(encoded, places)
        return encoded, places

    def _check_belongs(
        self, encoded: EncodedSet, places: Mapping[str, tuple[int, int]], probes: int = 64
    ) -> None:
        """Compare some answers in ``encoded`` with the documents': another set has others."""
        docs = [
            (key, answer)
            for columns in self._docs
            for key, answer in zip(columns["doc_id"], columns["answer"], strict=True)
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
        images: dict[int, tuple[Any, int]] = {}
        turns: dict[int, list[tuple[int, str, Turn]]] = {}
        for task, docs in zip(self._tasks, self._docs, strict=True):
            names = ("sample", "turn", "doc_id", "question", "answer", "family")
            for row, doc in enumerate(zip(*(docs[name] for name in names), strict=True)):
                sample, turn, key, *words = doc
                images.setdefault(sample, (task.test_docs(), row))
                turns.setdefault(sample, []).append((turn, key, Turn(*words)))
        chosen, places = [], {}
        for row, sample in enumerate(sorted(turns)):
            asked = sorted(turns[sample], key=lambda item: item[0])
            chosen.append((*images[sample], tuple(turn for *_, turn in asked)))
            places.update({key: (row, k) for k, (_, key, _) in enumerate(asked, start=1)})
        return encode(_Chosen(chosen), self.processor, packed=True), places


class _Chosen(Sequence[Sample]):
    """Samples whose images are read when asked for."""

    def __init__(self, rows: Sequence[tuple[Any, int, tuple[Turn, ...]]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        data, row, turns = self.rows[index]
        return Sample(str(index), data[row]["image"], turns)


def _images(data: Any, doc: int, to_visual: Any) -> list[Any]:
    return [image for image in to_visual(data[doc]) or [] if image is not None]


def _read(
    spec: TaskSpec, results: Mapping[str, Any], docs: Sequence[str], images: Sequence[str]
) -> TaskScore:
    """Read one task's score and what each document adds to it.

    Raises:
        AutoPruneError: it is not exactly one finite number a metric, within [0, maximum].
    """
    found = results["results"].get(spec.name, {})
    total = 0.0
    for metric in spec.metrics:
        key = f"{metric},{spec.filter}"
        value = found.get(key)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float, np.floating, np.integer))
            or not math.isfinite(value)
        ):
            raise AutoPruneError(
                f"lmms-eval returned {value!r} for {key!r} of task {spec.name!r}, "
                "where one finite number was due"
            )
        total += float(value)
    score = total / spec.maximum
    if not -1e-9 <= score <= 1 + 1e-9:
        raise AutoPruneError(
            f"task {spec.name!r} scored {total:g}, outside [0, {spec.maximum:g}]: mend its maximum"
        )
    values = _values(spec, results["samples"][spec.name], len(docs))
    if values is not None and abs(values.mean() - score) > 1e-6:
        values = None  # the metric is no mean over documents
    if not spec.higher_is_better:
        score = 1.0 - score
        values = None if values is None else 1.0 - values
    return TaskScore(
        name=spec.name,
        metric=spec.metric,
        chance=spec.chance,
        score=score,
        docs=np.asarray(docs, dtype=np.str_),
        images=np.asarray(images, dtype=np.str_),
        values=values,
    )


def _values(spec: TaskSpec, logged: Sequence[Mapping[str, Any]], docs: int) -> np.ndarray | None:
    """Return ``float64 [docs]``, or None where a document has no number of its own."""
    values = np.full(docs, np.nan)
    for sample in logged:
        parts = [sample.get(metric) for metric in spec.metrics]
        parts = [part.get("score") if isinstance(part, Mapping) else part for part in parts]
        if all(isinstance(part, (int, float, np.floating, np.integer)) for part in parts):
            values[int(sample["doc_id"])] = sum(map(float, parts)) / spec.maximum  # type: ignore[arg-type]
    return values if docs and np.isfinite(values).all() else None
