"""The tasks that can be named, and sample sets written out as lmms-eval tasks."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from autoprune.data.samples import SampleSet
from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.identity import content_hash

SPLIT = "test"
MANIFEST = "manifest.json"
_FORMAT = 1  # of the directory; part of its name


@dataclass(frozen=True)
class TaskSpec:
    """What AutoPrune knows about a task beyond what lmms-eval does.

    Attributes:
        name: lmms-eval's name of the task.
        metrics: its results that, summed, are the score; each must be one finite number.
        maximum: the best possible sum; scores are divided by it.
        chance: score of guessing, 0..1; 0 where it is not known.
        higher_is_better: False turns the score round.
        filter: the lmms-eval filter whose results are read.
        family: for tasks made from a sample set, the ``Turn.source`` of its questions.
        max_new_tokens: for those, how long an answer may grow.
    """

    name: str
    metrics: tuple[str, ...] = ("exact_match",)
    maximum: float = 1.0
    chance: float = 0.0
    higher_is_better: bool = True
    filter: str = "none"
    family: str | None = None
    max_new_tokens: int = 16

    @property
    def metric(self) -> str:
        """The metrics as one word."""
        return "+".join(self.metrics)


# The benchmarks of the pruning study, as lmms-eval 0.7.3 computes them. Chance: POPE and MME ask
# balanced yes/no questions (MME adds accuracy and accuracy over pairs, 75 of 200 points by
# guessing); SEED-Bench and AI2D have four choices, MMBench up to four; ScienceQA's images 40.08 %,
# MMMU's validation split 22.1 % and MMStar 24.6 % are the "random" rows of their papers; open
# answers have no chance.
BENCHMARKS: tuple[TaskSpec, ...] = (
    TaskSpec("gqa"),
    TaskSpec("pope", ("pope_accuracy",), chance=0.5),
    TaskSpec("scienceqa_img", chance=0.4008),
    TaskSpec("mme", ("mme_perception_score", "mme_cognition_score"), maximum=2800.0, chance=0.375),
    TaskSpec("mmmu_val", ("mmmu_acc",), chance=0.221),
    TaskSpec("mmbench_en_dev_static", ("gpt_eval_score",), maximum=100.0, chance=0.25),
    TaskSpec("textvqa_val"),
    TaskSpec("seedbench", ("seed_all",), chance=0.25),
    TaskSpec("vqav2_val"),
    TaskSpec("ai2d", chance=0.25, filter="flexible-extract"),
    TaskSpec("mmstar", ("average",), chance=0.246),
)


@cache
def known_tasks() -> dict[str, TaskSpec]:
    """Return every task that can be named: those of the embedded data, then the benchmarks."""
    from autoprune.zoo import FAMILIES

    digits = [
        TaskSpec(f"digits_{f.name}", chance=f.chance, family=f.name, max_new_tokens=4)
        for f in FAMILIES.values()
    ]
    return {spec.name: spec for spec in (*digits, *BENCHMARKS)}


def resolve_tasks(names: Iterable[str] | None = None) -> tuple[TaskSpec, ...]:
    """Return the specs of ``names``; ``None`` and the name ``digits`` mean all embedded tasks.

    Raises:
        AutoPruneError: for a name that is not known, or named twice.
    """
    table = known_tasks()
    specs: list[TaskSpec] = []
    for name in ["digits"] if names is None else names:
        if name == "digits":
            specs.extend(spec for spec in table.values() if spec.family is not None)
        elif name in table:
            specs.append(table[name])
        else:
            raise AutoPruneError(f"unknown task {name!r}{did_you_mean(name, ['digits', *table])}")
    if not specs:
        raise AutoPruneError("no task named: name at least one")
    if len({spec.name for spec in specs}) < len(specs):
        raise AutoPruneError(f"a task is named twice in {', '.join(s.name for s in specs)}")
    return tuple(specs)


# --- a sample set as tasks ----------------------------------------------------------------------


def materialise(samples: SampleSet, specs: Sequence[TaskSpec], cache_dir: Path) -> Path:
    """Write ``samples`` as lmms-eval tasks: a parquet and a YAML file for each of ``specs``.

    The directory is named after its content, written beside its place and moved there, so that
    any number of processes may ask for it at once. It is self-contained: ``lmms-eval
    --include_path DIR --tasks NAME`` reads it too.

    Returns:
        The directory, inside ``cache_dir``.

    Raises:
        AutoPruneError: a spec is not made from a sample set, or no sample asks its questions.
    """
    for spec in specs:
        if spec.family is None:
            raise AutoPruneError(
                f"task {spec.name!r} brings its own data and cannot be made from {samples.name}: "
                f"choose from {', '.join(s.name for s in resolve_tasks())}"
            )
    identity = content_hash(samples.identity, list(specs), _FORMAT)
    final = Path(cache_dir) / "tasks" / identity
    if (final / MANIFEST).exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{identity}-", dir=final.parent))
    try:
        _write(samples, specs, scratch)
        try:
            os.rename(scratch, final)
        except OSError:
            if not (final / MANIFEST).exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final


def manifest(task_dir: Path) -> dict[str, Any]:
    """Return what :func:`materialise` noted about a directory.

    Raises:
        AutoPruneError: it is no such directory.
    """
    path = Path(task_dir) / MANIFEST
    if not path.exists():
        raise AutoPruneError(f"{task_dir} holds no tasks: materialise a sample set there first")
    return dict(json.loads(path.read_text()))


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Switch the progress bars of ``datasets`` off, and back on if they were."""
    import datasets

    off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not off:
            datasets.enable_progress_bars()


def _write(samples: SampleSet, specs: Sequence[TaskSpec], directory: Path) -> None:
    import yaml
    from datasets import Dataset, Features, Image, Value

    features = Features(
        {
            "doc_id": Value("string"),
            "image_id": Value("string"),
            "image": Image(),
            "question": Value("string"),
            "answer": Value("string"),
            "family": Value("string"),
            "sample": Value("int64"),
            "turn": Value("int64"),
            "ring": Value("float64"),
            "stratum": Value("int64"),
        }
    )
    rows: dict[str, list[dict[str, Any]]] = {str(spec.family): [] for spec in specs}
    ring, strata = samples.ring, samples.strata
    for index in range(len(samples)):
        sample = samples[index]
        image = None
        if sample.image is not None:
            png = io.BytesIO()
            sample.image.save(png, "png")
            image = {"bytes": png.getvalue(), "path": None}
        for turn_index, turn in enumerate(sample.turns):
            if turn.source in rows:
                rows[turn.source].append(
                    {
                        "doc_id": f"{sample.key}/{turn_index}",
                        "image_id": sample.key,
                        "image": image,
                        "question": turn.question,
                        "answer": turn.answer,
                        "family": turn.source,
                        "sample": index,
                        "turn": turn_index,
                        "ring": float(ring[index]),
                        "stratum": int(strata[index]),
                    }
                )
    for spec in specs:
        docs = rows[str(spec.family)]
        if not docs:
            raise AutoPruneError(
                f"{samples.name} asks no question of family {spec.family!r}: "
                f"leave task {spec.name!r} out or take more samples"
            )
        with no_progress_bars():
            data = Dataset.from_list(docs, features=features)
            data.to_parquet(directory / f"{spec.name}.parquet")
        text = yaml.safe_dump(_task_config(spec), sort_keys=False)
        (directory / f"{spec.name}.yaml").write_text(text)
    note = {
        "name": samples.name,
        "identity": samples.identity,
        "samples": len(samples),
        "tasks": [asdict(spec) for spec in specs],
    }
    (directory / MANIFEST).write_text(json.dumps(note, indent=1))


def _task_config(spec: TaskSpec) -> dict[str, Any]:
    return {
        "task": spec.name,
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {SPLIT: f"{spec.name}.parquet"}},
        "test_split": SPLIT,
        "output_type": "generate_until",
        "doc_to_visual": "image",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": spec.max_new_tokens, "do_sample": False},
        "metric_list": [
            {
                "metric": metric,
                "aggregation": "mean",
                "higher_is_better": True,
                "ignore_case": True,
                "ignore_punctuation": True,
            }
            for metric in spec.metrics
        ],
        "metadata": {"version": _FORMAT},
    }
