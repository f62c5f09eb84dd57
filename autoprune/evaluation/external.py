"""Tasks with documents of their own: written out, opened again, and tried on right answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.errors import AutoPruneError
from autoprune.evaluation import harness
from autoprune.evaluation.documents import Documents
from autoprune.evaluation.fields import check_columns
from autoprune.evaluation.pools import Chosen, Pool, pool_of, target_text
from autoprune.evaluation.reading import of_filter, raw_score
from autoprune.evaluation.sources import config_of
from autoprune.evaluation.tasks import TaskSpec

TRIED = 16
"""Documents that a task is tried on before it is asked of any model."""

SHARED = 16
"""Questions that one row of a packed set holds at most."""


def write_documents(chosen: Sequence[Chosen], folder: Path, first: int = 0) -> int:
    """Write the documents of tasks and what is known of each; return the number of samples.

    Args:
        chosen: the documents.
        folder: to write to.
        first: number of the first sample.
    """
    import datasets

    kinds = sorted({str(kind) for one in chosen for kind in one.strata})
    number_of = {kind: number for number, kind in enumerate(kinds, start=1)}
    samples = _Samples(first)
    for one in chosen:
        pool = one.pool
        data = pool.data.select(one.rows)
        with harness.quietly():
            datasets.DatasetDict({pool.split: data}).save_to_disk(str(folder / pool.spec.name))
        _describe(one, data, samples, number_of).write(folder, pool.spec.name)
    return samples.count


def _describe(one: Chosen, data: Any, samples: _Samples, number_of: dict[str, int]) -> Documents:
    pool, task = one.pool, one.pool.task
    generates = task.OUTPUT_TYPE == "generate_until" and not task.config.num_fewshot
    plain = harness.without_media(data)
    docs = Documents([], [], [], [], [], [], [], [], [])
    for place, row in enumerate(one.rows.tolist()):
        doc = data[place]
        asked = doc if task.config.process_results_use_image else plain[place]
        text = str(task.fewshot_context(asked, 0)) if generates else str(task.doc_to_text(asked))
        shown = [v for v in task.doc_to_visual(doc) or [] if v is not None]
        sample, turn, alone = samples.place(shown, f"{pool.spec.name}/{row}")
        docs.doc_id.append(f"{pool.spec.name}/{row}")
        docs.image_id.append(str(pool.images[row]))
        docs.sample.append(sample)
        docs.turn.append(turn)
        docs.packed.append(generates and alone)
        docs.question.append(text)
        docs.answer.append(target_text(task, doc))
        docs.ring.append(float(one.ring[place]))
        docs.stratum.append(number_of[str(one.strata[place])])
    return docs


class _Samples:
    """Deals documents to samples: those that show the very same picture share one."""

    def __init__(self, first: int) -> None:
        self.count = first
        self._open: dict[str, tuple[int, int]] = {}

    def place(self, shown: list[Any], name: str) -> tuple[int, int, bool]:
        """Return sample and turn of a document, and whether one picture is all that it shows."""
        alone = len(shown) <= 1 and all(hasattr(v, "tobytes") for v in shown)
        key = f"{name} by itself"
        if alone and shown:
            picture = shown[0]
            digest = hashlib.sha256(picture.tobytes()).hexdigest()
            key = f"{picture.size} {picture.mode} {digest}"
        sample, turn = self._open.get(key, (self.count, 0))
        if turn == SHARED or turn == 0:
            sample, turn = self.count, 0
            self.count += 1
        self._open[key] = sample, turn + 1
        return sample, turn, alone


def open_documents(spec: TaskSpec, folder: Path) -> Any:
    """Return the lmms-eval task of documents that :func:`write_documents` wrote."""
    import datasets

    with harness.quietly():
        data = datasets.load_from_disk(str(folder / spec.name))
    return harness.build_task(config_of(spec), data, process=False)


def pictures(task: Any, split: str, doc: int) -> list[Any]:
    """Return the pictures that a document shows, read when asked for."""
    return opened(task.doc_to_visual(task.dataset[split][doc]))


def opened(shown: Sequence[Any] | None) -> list[Any]:
    """Return visuals as pictures; a path is opened, and a list holds several."""
    from PIL import Image

    each = [one for v in shown or [] for one in (v if isinstance(v, list) else [v])]
    found = [visual for visual in each if visual is not None]
    pictures = [Image.open(visual) if isinstance(visual, str) else visual for visual in found]
    return [p if getattr(p, "mode", "RGB") == "RGB" else p.convert("RGB") for p in pictures]


# --- right answers ------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def tried(spec: TaskSpec) -> TaskSpec:
    """Answer some documents of a task rightly, without a model, and return the spec completed.

    Whatever keeps the task from being scored shows here, before a search has started: a column
    that is missing, a filter or metric that is not reported. Where the maximum of its score is
    not known, right answers tell it: 1 or 100.

    Raises:
        AutoPruneError: see above.
    """
    pool = pool_of(spec)
    check_columns(config_of(spec), pool.data.column_names, spec.name)
    filters = [one.name for one in pool.task._filters]
    if spec.filter not in filters:
        spec = replace(spec, filter=filters[0])
    total = _rightly(pool, spec)
    if spec.maximum:
        return _with_chance(spec, pool)
    if total > 100 or total < 0:
        raise AutoPruneError(
            f"task {spec.name!r} gives right answers {total:g} points: write its maximum into its "
            "file (metadata: {autoprune: {maximum: ...}}), or choose another metric"
        )
    return _with_chance(replace(spec, maximum=100.0 if total > 1 + 1e-9 else 1.0), pool)


def _with_chance(spec: TaskSpec, pool: Pool) -> TaskSpec:
    """Return a spec with the chance of a choice among given answers, where none is known."""
    if spec.chance or pool.task.OUTPUT_TYPE != "multiple_choice" or spec.metrics != ("acc",):
        return spec
    rows = _some(pool, 64)
    counts = [len(pool.task.doc_to_choice(pool.data[row])) for row in rows]
    return replace(spec, chance=float(np.mean([1 / max(1, count) for count in counts])))


def _some(pool: Pool, most: int) -> list[int]:
    """Return rows of whole images, from all over a pool."""
    names = list(dict.fromkeys(pool.images.tolist()))
    step = max(1, len(names) // most)
    picked = set(names[::step][:most])
    return [row for row, image in enumerate(pool.images.tolist()) if image in picked][: 8 * most]


def _rightly(pool: Pool, spec: TaskSpec) -> float:
    import datasets

    data = pool.data.select(_some(pool, TRIED))
    answers = [target_text(pool.task, doc) for doc in data]

    def say(requests: list[Any]) -> list[str]:
        return [answers[request.args[3]] for request in requests]

    def rank(requests: list[Any]) -> list[tuple[float, bool]]:
        right = [_continuation(pool.task, data, r).strip() == answers[r.args[3]] for r in requests]
        return [(0.0 if one else 1.0, one) for one in right]

    given = datasets.DatasetDict({pool.split: data})
    try:
        task = harness.build_task(config_of(spec), given, process=False)
        harness.select_docs(task, pool.split)
        harness.only_metrics(task, spec.metrics)
        for row in range(len(data)):
            pictures(task, pool.split, row)
        results = harness.run([task], say, rank)
        logged = of_filter(spec, results["samples"][spec.name], len(data), task)
        return raw_score(spec, results, logged)
    except AutoPruneError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise AutoPruneError(
            f"task {spec.name!r} cannot score right answers to its own documents ({reason}; "
            f"columns there: {', '.join(pool.data.column_names)}): give it the documents that its "
            "file asks for"
        ) from error


def _continuation(task: Any, data: Any, request: Any) -> str:
    given = request.args[1]
    return str(given(data[request.args[3]]) if callable(given) else given)
