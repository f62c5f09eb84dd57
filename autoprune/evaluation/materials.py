"""Tasks written out as directories that any process can open: of a sample set, or of documents."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoprune.data.samples import SampleSet
from autoprune.errors import AutoPruneError
from autoprune.evaluation.external import write_documents
from autoprune.evaluation.harness import no_progress_bars
from autoprune.evaluation.pools import Chosen
from autoprune.evaluation.tasks import TaskSpec, resolve_tasks
from autoprune.identity import content_hash

SPLIT = "test"
MANIFEST = "manifest.json"
_FORMAT = 2  # of the directory; part of its name


def materialise(
    samples: SampleSet | None,
    specs: Sequence[TaskSpec],
    cache_dir: Path,
    chosen: Sequence[Chosen] = (),
) -> Path:
    """Write tasks: those of ``samples`` as a parquet and a YAML file each, others' documents.

    The directory is named after its content, written beside its place and moved there, so that
    any number of processes may ask for it at once. Tasks of a sample set are self-contained there:
    ``lmms-eval --include_path DIR --tasks NAME`` reads them too.

    Args:
        samples: that tasks with a family are made of; None where there are none.
        specs: tasks, those of ``chosen`` among them.
        cache_dir: the directory comes to lie below it.
        chosen: documents of the tasks that bring their own.

    Returns:
        The directory, inside ``cache_dir``.

    Raises:
        AutoPruneError: a task has neither samples nor documents, or no sample asks its questions.
    """
    there = {one.pool.spec.name for one in chosen}
    own = [spec for spec in specs if spec.name not in there]
    for spec in own:
        if spec.family is None or samples is None:
            raise AutoPruneError(
                f"task {spec.name!r} brings its own data and cannot be made from "
                f"{'nothing' if samples is None else samples.name}: "
                f"choose from {', '.join(s.name for s in resolve_tasks())}"
            )
    picked = [[one.pool.identity, one.rows] for one in chosen]
    identity = content_hash(
        None if samples is None else samples.identity, list(specs), picked, _FORMAT
    )
    final = Path(cache_dir) / "tasks" / identity
    if (final / MANIFEST).exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{identity}-", dir=final.parent))
    try:
        if own and samples is not None:
            _write(samples, own, scratch)
        count = len(samples) if own and samples is not None else 0
        count = write_documents(chosen, scratch, count)
        names = [samples.name] if own and samples is not None else []
        note = {
            "name": "+".join([*names, *(one.pool.spec.name for one in chosen)]),
            "identity": identity,
            "samples": count,
            "tasks": [asdict(spec) for spec in specs],
        }
        (scratch / MANIFEST).write_text(json.dumps(note, indent=1))
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


def _write(samples: SampleSet, specs: Sequence[TaskSpec], directory: Path) -> None:
    import yaml
    from datasets import Dataset, Features, Image, List, Value

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
    # Samples about one image go together where a score's interval is drawn.
    groups = getattr(samples, "groups", None)
    several: set[str] = set()
    for index in range(len(samples)):
        sample = samples[index]
        images = [_png(image) for image in sample.images]
        if len(images) > 1:
            several.update(turn.source for turn in sample.turns)
        for turn_index, turn in enumerate(sample.turns):
            if turn.source in rows:
                rows[turn.source].append(
                    {
                        "doc_id": f"{sample.key}/{turn_index}",
                        "image_id": sample.key if groups is None else groups[index],
                        "image": images,
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
        # One image a document, as everybody reads it, unless some have more.
        own = features
        if spec.family in several:
            own = Features({**features, "image": List(Image())})
        else:
            docs = [{**doc, "image": next(iter(doc["image"]), None)} for doc in docs]
        with no_progress_bars():
            data = Dataset.from_list(docs, features=own)
            data.to_parquet(directory / f"{spec.name}.parquet")
        text = yaml.safe_dump(_task_config(spec), sort_keys=False)
        (directory / f"{spec.name}.yaml").write_text(text)


def _png(image: Any) -> dict[str, Any]:
    """Return an image as a data set holds it."""
    png = io.BytesIO()
    image.save(png, "png")
    return {"bytes": png.getvalue(), "path": None}


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
