"""All documents of tasks, grouped by image and dealt out to splits.

Documents that show the same image belong together: questions of one image are not independent,
and no image of one split may be seen in another. An image is known by the hash of its encoded
bytes; nothing is decoded for it. Splits are drawn by a seed of their own, so that searches with
other seeds are scored on the same images, and ``evaluate`` of the same tasks finds the images that
a search did not see. Tasks that share images are dealt together: alone, or beside others, such a
task may have other splits.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.data.sources.pictures import known_by
from autoprune.errors import AutoPruneError
from autoprune.evaluation import harness
from autoprune.evaluation.sources import load_all, split_of
from autoprune.evaluation.tasks import TaskSpec
from autoprune.identity import content_hash

SHARES = {"search": 0.35, "confirm": 0.40, "report": 0.25}
"""Of a task's images, in the splits."""

PROXY = {"search": 384, "confirm": 512}
"""Images of a task that are asked about by default, where it has so many."""

LEAST = 6
"""Images that a task needs: two in each split."""

CATEGORIES = (
    "category",
    "l2-category",
    "L2-category",
    "question_type",
    "data_type",
    "type",
    "subject",
    "topic",
    "task",
    "skill",
)
"""Columns that may say what kind of question a document asks, the first that does is taken."""

_VIDEO = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".wav", ".mp3", ".flac")


@dataclass(frozen=True, eq=False)
class Pool:
    """A task with all of its documents.

    Attributes:
        spec: of the task.
        task: lmms-eval's object.
        split: of its data, that is asked.
        images: ``str [docs]``: what a document shows; documents that share an image share it.
        numbers: what its images are known by in a user's data, as far as they are files or bytes.
        labels: ``str [docs]``: the kind of question.
        identity: content hash over the images, the other columns and the task's file.
    """

    spec: TaskSpec
    task: Any
    split: str
    images: np.ndarray
    labels: np.ndarray
    identity: str
    numbers: frozenset[int] = frozenset()

    @property
    def data(self) -> Any:
        """The documents, a data set."""
        return self.task.dataset[self.split]


def pool_of(spec: TaskSpec) -> Pool:
    """Load a task's documents and group them; once a process, however it is scored.

    Raises:
        AutoPruneError: see ``sources.load_all``.
    """
    plain = TaskSpec(
        spec.name,
        per=spec.per,
        joined=spec.joined,
        source=spec.source,
        data=spec.data,
        identity=spec.identity,
    )
    return _pool(plain)


@lru_cache(maxsize=16)
def _pool(spec: TaskSpec) -> Pool:
    task = load_all(spec)
    split = split_of(vars(task.config))
    data = task.dataset[split]
    shown, numbers = _images(task, data, spec)
    images = np.asarray(_joined(shown, spec.name), dtype=np.str_)
    plain = harness.without_media(data)
    labels = np.asarray(_labels(task, plain, spec), dtype=np.str_)
    digest = hashlib.sha256()
    for row in plain:
        digest.update(repr(row).encode())
    identity = content_hash(spec, images, digest.hexdigest())
    return Pool(spec, task, split, images, labels, identity, frozenset(numbers))


# --- what a document shows ----------------------------------------------------------------------


def _images(task: Any, data: Any, spec: TaskSpec) -> tuple[list[list[str]], set[int]]:
    """Return the hashes of each document's images, and what these are known by elsewhere."""
    columns = harness.image_columns(data)
    if columns:
        return _hashes(data, columns)
    if task.config.doc_to_visual is None:
        return [[] for _ in range(len(data))], set()
    shown = [task.doc_to_visual(doc) or [] for doc in data]
    files = [visual for row in shown for visual in row if isinstance(visual, str)]
    hashes = [[_of_visual(visual, spec) for visual in row] for row in shown]
    return hashes, {known_by(file, Path()) for file in dict.fromkeys(files)}


def _hashes(data: Any, columns: Sequence[str]) -> tuple[list[list[str]], set[int]]:
    """Return the hashes of the encoded images of each document, none decoded; and their numbers."""
    raw = data.select_columns(list(columns)).with_format("arrow")
    found: list[list[str]] = []
    numbers: set[int] = set()
    for start in range(0, len(raw), 64):
        for row in raw[start : start + 64].to_pylist():
            images = [image for value in row.values() for image in _each(value)]
            found.append([_encoded(image) for image in images])
            for image in images:
                with contextlib.suppress(OSError):  # known by its path alone
                    numbers.add(known_by(image, Path()))
    return found, numbers


def _each(value: Any) -> list[Mapping[str, Any]]:
    """Return the images of a value, as mappings of bytes or path."""
    if isinstance(value, list):
        return [image for item in value for image in _each(item)]
    if isinstance(value, bytes):
        return [{"bytes": value}]
    there = isinstance(value, Mapping) and any(value.get(k) is not None for k in ("bytes", "path"))
    return [value] if there else []


def _encoded(image: Mapping[str, Any]) -> str:
    if image.get("bytes") is not None:
        return _digest(image["bytes"])
    there = Path(image["path"])
    return _digest(there.read_bytes()) if there.is_file() else _digest(str(there).encode())


def _of_visual(visual: Any, spec: TaskSpec) -> str:
    """Return the hash of what ``doc_to_visual`` made of a document that has no image column."""
    if isinstance(visual, str) and not visual.lower().endswith(_VIDEO):
        path = Path(visual)
        if path.is_file():
            return _digest(path.read_bytes())
        raise AutoPruneError(
            f"task {spec.name!r} shows the file {visual}, which is not there: mend the path in its "
            "documents"
        )
    if hasattr(visual, "tobytes") and hasattr(visual, "convert"):
        return _digest(visual.tobytes())
    raise AutoPruneError(
        f"task {spec.name!r} shows films or sound, and a model is asked about pictures here: "
        "choose another task"
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _joined(shown: Sequence[Sequence[str]], name: str) -> list[str]:
    """Name each document by the first image of all that hang together with its own."""
    root: dict[str, str] = {}

    def find(item: str) -> str:
        while root.setdefault(item, item) != item:
            root[item] = root[root[item]]
            item = root[item]
        return item

    for images in shown:
        for other in images[1:]:
            a, b = sorted((find(images[0]), find(other)))
            root[b] = a
    return [find(images[0]) if images else f"{name}/{row}" for row, images in enumerate(shown)]


# --- what a document asks -----------------------------------------------------------------------


def _labels(task: Any, plain: Any, spec: TaskSpec) -> list[str]:
    """Return the kind of each document: by a column for it, else by its answer."""
    wanted = (spec.per,) if spec.per else CATEGORIES
    for name in wanted:
        if name in plain.column_names:
            values = [str(value) for value in plain[name]]
            if spec.per or 2 <= len(set(values)) <= max(2, len(values) // 4):
                return values
    answers = [target_text(task, doc) for doc in plain] if _reads_plain(task, plain) else []
    if not answers:
        return [""] * len(plain)
    often = Counter(answers)
    return [answer if often[answer] >= 3 else "" for answer in answers]


def _reads_plain(task: Any, plain: Any) -> bool:
    try:
        task.doc_to_target(plain[0])
    except Exception:  # its answer needs the image, too
        return False
    return True


def target_text(task: Any, doc: Any) -> str:
    """Return the text of a document's right answer, as far as the task says one."""
    target = task.doc_to_target(doc)
    if isinstance(target, (list, tuple)):
        target = target[0] if len(target) else ""
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        choices = task.doc_to_choice(doc)
        target = choices[target] if 0 <= target < len(choices) else ""
    return str(target).strip()


# --- splits -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """The documents of a task that are asked, in the order of its data.

    Attributes:
        pool: of the task.
        rows: ``int64 [n]``, rows of its data.
        ring: ``float64 [n]`` in [0, 1): where a document's image stands on the circle.
        strata: ``str [n]``: kinds that a share of the images is taken in.
    """

    pool: Pool
    rows: np.ndarray
    ring: np.ndarray
    strata: np.ndarray


def choose(
    specs: Iterable[TaskSpec], split: str, size: int | None = None, seed: int = 0
) -> list[Chosen]:
    """Return the documents of each task that belong to a split.

    Args:
        specs: tasks with documents of their own.
        split: ``search``, ``confirm``, ``report``, or ``all``.
        size: images of each task; None takes :data:`PROXY`, or all there are.
        seed: of the splits.

    Raises:
        AutoPruneError: documents cannot be had, or a task is left without.
    """
    pools = [pool_of(spec) for spec in specs]
    dealt = deal({pool.spec.name: pool for pool in pools}, seed)
    size = PROXY.get(split) if size is None else size
    found = []
    for pool in pools:
        strata = _image_strata(pool)
        order = _spread(strata, seed)
        if split != "all" and len(order) < LEAST:
            raise AutoPruneError(
                f"task {pool.spec.name!r} has {len(order)} images or texts, and three splits need "
                f"{LEAST}: give it more documents"
            )
        if split != "all":
            order = [image for image in order if dealt[image] == split]
        if size is not None and size < len(order):
            places = ((2 * np.arange(size) + 1) * len(order)) // (2 * size)
            order = [order[place] for place in places]
        if len(order) < 2:
            raise AutoPruneError(
                f"task {pool.spec.name!r} has {len(order)} images in split {split!r}: ask about 2 "
                "or more, or give it more documents"
            )
        # Evenly over the kinds, so that any arc of the circle holds its share of each.
        place_of = {image: (place + 0.5) / len(order) for place, image in enumerate(order)}
        rng = np.random.default_rng(seed + 1)
        turned = dict(zip(place_of, rng.permutation(list(place_of.values())), strict=True))
        rows = np.flatnonzero(np.isin(pool.images, list(place_of)))
        images = pool.images[rows]
        found.append(
            Chosen(
                pool,
                rows,
                np.array([turned[image] for image in images]),
                np.array([f"{pool.spec.name}/{strata[image]}" for image in images], dtype=np.str_),
            )
        )
    return found


def deal(pools: Mapping[str, Pool], seed: int = 0) -> dict[str, str]:
    """Return the split of every image: stratified by kind in each task, one split an image.

    Tasks are dealt in the order of their names; an image that an earlier one holds keeps its split.
    """
    dealt: dict[str, str] = {}
    for name in sorted(pools):
        taken = Counter(dict.fromkeys(SHARES, 0))
        for image in _spread(_image_strata(pools[name]), seed):
            if image not in dealt:
                count = sum(taken.values()) + 1
                dealt[image] = max(SHARES, key=lambda s: SHARES[s] * count - taken[s])
            taken[dealt[image]] += 1
    return dealt


def _image_strata(pool: Pool) -> dict[str, str]:
    """Return the kind of each image: those of its questions, or the commonest of them."""
    labels: dict[str, list[str]] = {}
    for image, label in zip(pool.images.tolist(), pool.labels.tolist(), strict=True):
        labels.setdefault(image, []).append(label)
    joined = {image: "|".join(sorted(set(found))) for image, found in labels.items()}
    if len(set(joined.values())) <= max(1, len(joined) // 4):
        return joined
    return {
        image: min(found, key=lambda label: (-found.count(label), label))
        for image, found in labels.items()
    }


def _spread(strata: Mapping[str, str], seed: int) -> list[str]:
    """Return the images kind by kind, shuffled within each and from kind to kind."""
    return sorted(
        strata,
        key=lambda image: (_draw(strata[image], seed), strata[image], _draw(image, seed), image),
    )


def _draw(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{text}".encode()).hexdigest()
