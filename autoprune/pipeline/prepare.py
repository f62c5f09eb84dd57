"""Preparation, once a search: load and score the dense model, measure importance, fill caches.

Each stage is kept by content (see ``cache``), so that a later search on the same model and data
starts at once. Importance is measured on the ``calibration`` split: samples that the dense model
was not trained on, since gradients vanish on memorised ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.data.encoding import EncodedSet, encode_for
from autoprune.data.lengths import longest_of
from autoprune.data.samples import SampleSet
from autoprune.data.splits import DataSpec, Splits
from autoprune.errors import AutoPruneError
from autoprune.evaluation.asked import asked_in
from autoprune.evaluation.bridge import Evaluator
from autoprune.evaluation.external import tried
from autoprune.evaluation.held_out import asks_of_data, unseen
from autoprune.evaluation.materials import materialise
from autoprune.evaluation.pools import choose
from autoprune.evaluation.retention import kept_tasks
from autoprune.evaluation.scores import TaskScores
from autoprune.evaluation.tasks import TaskSpec
from autoprune.models.arrays import state_arrays
from autoprune.models.files import processor_identity
from autoprune.models.loading import Inspected, Loaded, inspect_model, load_model
from autoprune.models.shape import BackboneSpec
from autoprune.models.source import load_from, weight_source
from autoprune.pipeline.assets import Assets, Exam
from autoprune.pipeline.cache import Cache
from autoprune.pruning.footprint import rows_within
from autoprune.pruning.importance import measure
from autoprune.pruning.scores import Importance
from autoprune.recovery.teacher import TeacherCache, build_teacher
from autoprune.resources import Resources
from autoprune.zoo import EMBEDDED, embedded_path, splits_of

NAMED = {EMBEDDED: embedded_path}
"""Models that go by a name of their own."""

CALIBRATION_ROWS = 8
"""Rows of a batch of the importance pass, where memory allows."""

PROBE_IMAGES = 64
"""Calibration images that the KL proxy looks at."""


TRAIN_IMAGES = 2000
"""Recovery samples that are 100 % of the data, where there are as many."""


@dataclass(frozen=True)
class Preparation:
    """What to prepare.

    Attributes:
        model: name or path of the dense model.
        tasks: that are scored.
        splits: name of each exam's split, and its number of images (None: all of them).
        train_images: recovery samples that are 100 % of the data.
        calibration_images: samples of the importance pass.
        cache_limit: bytes of cached features (or processed images) and teacher states.
        data: what samples are read from; None: the embedded data.
    """

    model: str
    tasks: tuple[TaskSpec, ...]
    splits: tuple[tuple[str, int | None], ...] = (("search", None), ("confirm", None))
    train_images: int = TRAIN_IMAGES
    calibration_images: int = 256
    cache_limit: int | None = None
    data: DataSpec | None = None


def inspect(model: str, *, outline: bool = False) -> Inspected:
    """Check a model by its files alone, by name or path; takes milliseconds.

    Args:
        model: name or path.
        outline: let a directory pass that holds a configuration and no weights.

    Raises:
        AutoPruneError: for the first thing that would keep it from loading, or if it is
            quantised already, or has layers of different shapes.
    """
    found = inspect_model(model, NAMED, outline=outline)
    if found.quantised is not None:
        raise AutoPruneError(
            f"model {model!r} is quantised already ({found.quantised}), and pruning starts from "
            "full weights: pass the unquantised model"
        )
    if found.pruned:
        raise AutoPruneError(
            f"model {model!r} was pruned layer by layer already, and pruning starts from layers "
            "of one shape: pass the model that it was cut from, which its README names"
        )
    if found.ref not in NAMED and "weights" not in found.lacks:
        # Nothing is read here but where each tensor lies; a search would stumble over it later.
        weight_source(found.directory, found.config, getattr(torch, working_precision(found)))
    return found


def prepare(
    wanted: Preparation,
    folder: Path,
    resources: Resources,
    on_stage: Callable[[str], None] = lambda text: None,
    *,
    in_place: bool = True,
    check: Callable[[Exam], None] = lambda exam: None,
) -> Assets:
    """Return everything that trials share.

    Args:
        wanted: what to prepare.
        folder: of the cache; the tasks are written below it too.
        resources: to compute with.
        on_stage: told each stage that is not found in the cache, before it starts; and what the
            importance pass took.
        in_place: leave the weights of a real model in its files, where every process of this
            machine reads what it needs; False takes them along, for machines that do not see
            these files.
        check: raises where the dense model's scores on an exam do not suit the search; called
            before the passes that take long.

    Raises:
        AutoPruneError: for a model that cannot be loaded, or one that the tasks do not suit.
    """
    # Trials open the tasks from a working directory of their own.
    folder = folder.absolute()
    device = resources.claim()
    on_stage("loading the dense model")
    dense, weights, precision = _open(wanted.model, device, in_place)
    cache = Cache(folder)
    reader = processor_identity(dense.directory)

    def stage(name: str, text: str, inputs: Any, compute: Callable[[], Any]) -> Any:
        def run() -> Any:
            on_stage(text)
            return compute()

        return cache.get(name, [dense.identity, reader, precision, inputs], run)

    # First, as it is short: a model that cannot do the tasks is not worth the passes that follow.
    splits = splits_of(wanted.data)
    asked = splits if asks_of_data(wanted.tasks) else splits_of(None)
    exams = {}
    for split, size in wanted.splits:
        exam = _exam(stage, dense, asked, split, size, wanted.tasks, folder)
        check_ability(dense.vision, exam.dense)
        check(exam)
        exams[split] = exam
    train_set, calibration_set, probe_set = (
        unseen(splits.open(split, size), wanted.tasks, on_stage)
        for split, size in (
            ("train", wanted.train_images),
            ("calibration", wanted.calibration_images),
            ("calibration", min(PROBE_IMAGES, wanted.calibration_images)),
        )
    )
    keep = None if wanted.cache_limit is None else wanted.cache_limit // 2
    longest = None if wanted.data is None else longest_of(dense.config, wanted.data)
    encoded = partial(_encoded, stage, dense, keep=keep, longest=longest)
    train, calibration = encoded(train_set), encoded(calibration_set)
    if train.cut or train.left_out:
        on_stage(
            f"{train_set.name}: of {len(train_set):,} samples {train.left_out:,} are longer than "
            f"{longest:,} tokens and left out, {train.cut:,} are cut behind the last turn that fits"
        )
    limit = wanted.cache_limit
    if limit is not None and train.shown is not None:
        limit = max(0, limit - train.shown.nbytes)

    def importance_pass() -> Importance:
        rows = calibration_rows(dense.spec, calibration, precision)
        every = np.arange(len(calibration))
        found = measure(dense.model, calibration, every, batch_size=rows)
        held = (
            "GPU memory" if device.type == "cuda" else "memory, Python and its libraries included"
        )
        on_stage(f"importance: peak {found.peak_bytes / 2**30:.1f} GiB of {held}")
        return found

    importance = stage(
        "importance",
        f"measuring importance on {len(calibration):,} samples",
        calibration.identity,
        importance_pass,
    )
    teacher = stage(
        "teacher",
        f"caching the dense model's states on {len(train):,} recovery samples",
        [train.identity, limit],
        lambda: build_teacher(dense.model, train, limit, device=device),
    )
    probe = encoded(probe_set)
    probe_teacher = stage(
        "probe",
        f"caching the dense model's states on {len(probe):,} probe samples",
        probe.identity,
        lambda: build_teacher(dense.model, probe, None, device=device),
    )
    return Assets(
        ref=wanted.model,
        identity=dense.identity,
        licence=dense.licence,
        config=dense.config,
        processor=dense.processor,
        generation_config=dense.model.generation_config,
        spec=dense.spec,
        weights=weights,
        precision=precision,
        importance=importance,
        train=_read_by(train, teacher),
        teacher=teacher,
        probe=_read_by(probe, probe_teacher),
        probe_teacher=probe_teacher,
        exams=exams,
    )


def working_precision(found: Inspected) -> str:
    """Return the precision that a model is worked with in: its own, bfloat16 for any half.

    The models that are shipped are small: they are worked with in float32, however stored.
    """
    if found.ref in NAMED:
        return "float32"
    return "bfloat16" if found.dtype in ("bfloat16", "float16") else "float32"


def calibration_rows(spec: BackboneSpec, calibration: EncodedSet, precision: str) -> int:
    """Return how many rows a batch of the importance pass has: few enough to stay in bounds."""
    longest = int(np.diff(calibration.offsets).max(initial=1))
    return rows_within(spec, getattr(torch, precision).itemsize, longest, CALIBRATION_ROWS)


def _open(
    model: str, device: torch.device, in_place: bool
) -> tuple[Loaded, Mapping[str, np.ndarray], str]:
    """Return a model, its weights for others to read, and the precision of both."""
    found = inspect(model)
    precision = working_precision(found)
    dtype = getattr(torch, precision)
    if model not in NAMED:
        source = weight_source(found.directory, found.config, dtype)
        if source is not None:
            dense = load_from(found, source, device)
            return dense, source if in_place else dict(source), precision
    dense = load_model(model, dtype, device, named=NAMED)
    return dense, state_arrays(dense.model), precision


def open_evaluators(
    assets: Assets, splits: Sequence[str] | None = None, fraction: float = 1.0
) -> dict[str, Evaluator]:
    """Open the exams of ``splits`` (all), or a share of their images: shared by a process's runs.

    A share is drawn by seed and nested, the same for all tasks.
    """
    names = list(assets.exams) if splits is None else list(splits)
    return {
        split: Evaluator(
            assets.processor,
            assets.exams[split].folder,
            assets.exams[split].tasks,
            fraction=fraction,
            encoded=assets.exams[split].encoded,
        )
        for split in names
    }


def check_ability(vision: bool, scores: TaskScores) -> None:
    """Refuse a dense model that is at chance: of nothing no share can be kept.

    Args:
        vision: whether it reads images.
        scores: its own.

    Raises:
        AutoPruneError: it is at chance on all tasks.
    """
    try:
        kept_tasks(scores)
    except AutoPruneError as error:
        if vision:
            raise
        raise AutoPruneError(
            f"a plain language model is asked the questions without their images: {error}"
        ) from None


def _read_by(encoded: EncodedSet, teacher: TeacherCache) -> EncodedSet:
    """Return a set without the pixels that its features make needless."""
    return encoded if teacher.features is None else encoded.without_pixels()


def _encoded(
    stage: Callable[..., Any],
    dense: Loaded,
    samples: SampleSet,
    keep: int | None,
    longest: int | None = None,
) -> EncodedSet:
    result: EncodedSet = stage(
        "encoded",
        f"tokenising {len(samples):,} samples of {samples.name}",
        # Images may be read again later, from where they are now.
        [samples.identity, keep, longest, getattr(samples, "place", None)],
        lambda: encode_for(dense.config, samples, dense.processor, keep=keep, longest=longest),
    )
    return result


def _exam(
    stage: Callable[..., Any],
    dense: Loaded,
    splits: Splits,
    split: str,
    size: int | None,
    tasks: tuple[TaskSpec, ...],
    folder: Path,
) -> Exam:
    """Write a split's tasks and score the dense model on them."""
    task_dir, tasks, samples = exam_of(splits, split, size, tasks, folder, dense.processor)
    # Images of a model that is run whole are read from the tasks; none need be kept here.
    encoded = _encoded(stage, dense, samples, keep=0)

    def score() -> Exam:
        evaluator = Evaluator(dense.processor, task_dir, tasks, encoded=encoded)
        features = evaluator.features(dense.model)
        features = None if features is None else features.astype(np.float16)
        scores = evaluator.evaluate(dense.model, features)
        return Exam(
            split=split,
            folder=task_dir,
            tasks=tasks,
            encoded=encoded.without_pixels(),
            features=features,
            dense=scores,
            seconds=scores.seconds,
        )

    text = f"scoring the dense model on {len(samples):,} samples of {samples.name}"
    exam: Exam = stage("exam", text, [samples.identity, list(tasks), str(task_dir)], score)
    return exam


def exam_of(
    splits: Splits,
    split: str,
    size: int | None,
    tasks: Sequence[TaskSpec],
    folder: Path,
    processor: Any,
) -> tuple[Path, tuple[TaskSpec, ...], SampleSet]:
    """Write the tasks of a split; return where, their specs completed, and what they ask.

    Args:
        splits: that tasks without documents of their own are made of.
        split: of the images; ``all`` for every document of tasks that bring their own, and for
            all that a search asks about a user's data.
        size: images of each task; None takes what is usual.
        tasks: to write.
        folder: of the cache; the directory comes to lie below it.
        processor: of the models to come.

    Raises:
        AutoPruneError: documents cannot be had, or do not suit their task.
    """
    done = tuple(spec if spec.family is not None else tried(spec) for spec in tasks)
    made = [spec for spec in done if spec.family is not None]
    samples = splits.open(split, size) if made else None
    chosen = choose([spec for spec in done if spec.family is None], split, size)
    task_dir = materialise(samples, done, folder, chosen)
    if not chosen and samples is not None:
        return task_dir, done, samples
    return task_dir, done, asked_in(task_dir, done, samples, processor)


def dense_model(assets: Assets, device: torch.device) -> Any:
    """Build the dense model from the shared arrays, which are copied."""
    from autoprune.models.arrays import from_arrays

    return from_arrays(assets.config, assets.weights, getattr(torch, assets.precision), device)
