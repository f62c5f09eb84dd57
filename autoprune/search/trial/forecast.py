"""What a search will take, said before it starts: work counted in FLOPs, speed measured here.

The speed is that of one decoder layer of the model's own shape, with random weights, forward
and backward on a batch like the search's (``speed``). So a forecast needs seconds and no weights.
How many trials are stopped, and where, is said by ``reach``.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from autoprune.cost.devices import HERE
from autoprune.cost.flops import ModelFlops, flops_of
from autoprune.cost.timing import timing_seconds
from autoprune.data.encoding import encode_for
from autoprune.data.splits import Splits
from autoprune.evaluation.held_out import asks_of_data
from autoprune.evaluation.pools import choose
from autoprune.identity import content_hash
from autoprune.models.families import text_config, wrapper_of
from autoprune.models.loading import Inspected, load_processor
from autoprune.models.shape import LayerShape
from autoprune.pipeline.cache import code_identity
from autoprune.pipeline.prepare import (
    CALIBRATION_ROWS,
    PROBE_IMAGES,
    Preparation,
    working_precision,
)
from autoprune.pruning.footprint import importance_peak, rows_within, surgery_peak
from autoprune.resources import Resources
from autoprune.search.candidates.rescoring import rows_of_rescoring
from autoprune.search.candidates.sizes import Sizes
from autoprune.search.fidelity.reach import reaching
from autoprune.search.knobs.space import Space
from autoprune.search.records.stages import Forecast
from autoprune.search.sampling.refine import probes_of_climb, refined_trials
from autoprune.search.settings import SearchSettings
from autoprune.search.starts.baselines import known
from autoprune.search.trial.speed import Speed, measure_speeds
from autoprune.tracking.records.trial import START
from autoprune.zoo import splits_of

START_SECONDS = 5.0
"""Imports, and Ray's start, which runs beside the preparation."""

WORKER_SECONDS = 8.0
"""Imports and the opening of the exams, on workers that start together."""

SECONDS_A_QUESTION = 1.2e-4
"""What lmms-eval and answering take beside the model's arithmetic."""

PLANNED_TOKENS = 1024
"""Length of a sample that memory is said for where no tokenizer says how long they are."""

FRONT = 1.75
"""Members of a front a root of the trials it is of, baselines left out.

Measured on 47 searches of 4 to 24 such trials on the embedded model: 3.7 members of 5 trials, 5.2
of 9, 6.7 of 14.
"""

_SAMPLE = 32
"""Samples that lengths are read off."""


@dataclass(frozen=True)
class Memory:
    """Most bytes that tensors take at a time.

    Attributes:
        importance: in the importance pass: the dense model, and one layer's activations.
        surgery: in a worker that builds the largest candidate.
        tokens: length of a sample that this is said for.
    """

    importance: int
    surgery: int
    tokens: int


@dataclass(frozen=True)
class _Lengths:
    """Means over rows of an encoded set, and rows and questions of a sample.

    ``reading`` is what a processor takes of an image, in seconds, where each question is asked
    through it.
    """

    tokens: int
    predicted: int
    image_tokens: float
    whole: bool
    rows: float
    questions: int
    reading: float


@dataclass(frozen=True)
class _Costs:
    """Seconds of the pieces of a trial, at one size and under one scope of training."""

    recover: float
    proxy: float
    search: float
    confirm: float

    def trial(self, reach: tuple[float, ...], rungs: tuple[float, ...], part: float) -> float:
        """Return the seconds of trials of which so many reach each rung.

        Rungs between the first and the last are scored on ``part`` of the images.
        """
        total, before = 0.0, 0.0
        for count, share in zip(reach, rungs, strict=True):
            scored = self.search * (0.0 if share == 0 else 1.0 if share == 1 else part)
            total += count * ((share - before) * self.recover + self.proxy + scored)
            before = share
        return total

    @property
    def rerun(self) -> float:
        """Seconds of a run of the confirmation."""
        return self.recover + self.proxy + self.confirm


def front_expected(trials: float) -> float:
    """Return how many of so many whole trials are expected on their front; see :data:`FRONT`."""
    return min(trials, FRONT * math.sqrt(trials))


def forecast(
    settings: SearchSettings, space: Space, wanted: Preparation, dense: Inspected, sizes: Sizes
) -> Forecast:
    """Say what a search will take on this machine.

    Args:
        settings: of the search.
        space: its knob space.
        wanted: what it prepares.
        dense: its model.
        sizes: that it samples from.
    """
    splits = splits_of(wanted.data)
    lengths = _lengths(dense, splits, wanted)
    cost = flops_of(dense.config, lengths.image_tokens or None)
    resources = Resources(cpus=settings.cpus_per_trial, gpus=settings.gpus_per_trial)
    base = space.complete({})
    sampled = space.knobs["scope"].values() if "scope" in space.knobs else [base["scope"]]
    scopes = [str(scope) for scope in sampled]
    tried = known(space, lambda size: 0.5, settings)
    first = [space.complete(b.knobs) for b in tried if not b.name.startswith(START)]
    dtype = getattr(torch, working_precision(dense))
    speeds = measure_speeds(
        dense.config,
        dense.spec,
        lengths.tokens,
        resources,
        share=sizes.kept(dense.spec),
        scopes=["full", *scopes, *(str(knobs["scope"]) for knobs in first)],
        dtype=dtype,
    )
    looked = min(PROBE_IMAGES, wanted.calibration_images)
    images = {split: asked_about(wanted, split, size, lengths) for split, size in wanted.splits}

    def forward(
        shapes: tuple[LayerShape, ...], samples: float, speed: Speed, vision: bool = False
    ) -> float:
        flops = cost.forward(
            shapes,
            tokens=lengths.tokens,
            predicted=lengths.predicted,
            images=int(lengths.image_tokens > 0),
            vision=vision or lengths.whole,
        )
        return samples * lengths.rows * flops * speed.forward

    def score(shapes: tuple[LayerShape, ...], samples: float, speed: Speed) -> float:
        asking = samples * lengths.questions * (SECONDS_A_QUESTION + lengths.reading)
        return forward(shapes, samples, speed) + asking

    def costs(share: float, scope: str) -> _Costs:
        kept = tuple(_scaled(shape, share) for shape in dense.spec.layers)
        speed = speeds[scope]
        step = _step(cost, kept, lengths, scope) * speed.training
        return _Costs(
            recover=float(base["passes"]) * settings.max_recovery_samples * step,
            proxy=forward(kept, looked, speed),
            search=score(kept, images["search"], speed),
            confirm=score(kept, images["confirm"], speed),
        )

    half = sizes.kept(dense.spec)
    drawn = [costs(half, scope) for scope in scopes]
    beside = [costs(sizes.kept(dense.spec, float(k["size"])), str(k["scope"])) for k in first]
    reach = reaching(settings, space, len(beside), len(tried))
    whole = tuple(1.0 for _ in space.rungs)
    part = settings.rung_share
    trials = sum(one.trial(whole, space.rungs, part) for one in beside)
    trials += sum(one.trial(reach, space.rungs, part) for one in drawn) / len(drawn)
    refined = refined_trials(settings.trials, settings.refine)
    trials += refined * probes_of_climb() * sum(one.proxy for one in drawn) / len(drawn)
    kept = tuple(_scaled(shape, (1 + half) / 2) for shape in dense.spec.layers)
    rescoring = rows_of_rescoring(space, lengths.rows * looked)
    rescoring *= _step(cost, kept, lengths, "full") * speeds["full"].training
    trials += (settings.trials - len(tried)) * rescoring
    points = min(settings.confirm_points, settings.trials)
    # Baselines seldom lie on the front, and are run beside it.
    expected = min(float(points), front_expected(reach[-1]))
    confirm = expected * sum(one.rerun for one in drawn) / len(drawn)
    confirm += sum(one.rerun for one in beside)
    full = dense.spec.layers
    prepare = START_SECONDS
    ready = mark(settings, wanted).is_file()
    if not ready:
        # The dense model is wider than the candidates, and wider products are faster.
        speed = measure_speeds(dense.config, dense.spec, lengths.tokens, resources, dtype=dtype)[
            "full"
        ]
        calibration = wanted.calibration_images * lengths.rows
        prepare += calibration * _step(cost, full, lengths, "full") * speed.training
        prepare += forward(full, wanted.train_images, speed, vision=True)
        prepare += (wanted.train_images + wanted.calibration_images) * lengths.reading
        tower = 0.0 if lengths.whole or not lengths.image_tokens else cost.vision * speed.forward
        prepare += sum(score(full, n, speed) + n * tower for n in images.values())
    return Forecast(
        prepare=prepare,
        trials=WORKER_SECONDS + trials / settings.workers,
        confirm=confirm * settings.confirm_seeds / settings.workers
        + _timing(settings, sizes, working_precision(dense), points + len(beside)),
        disk=_disk(dense, settings, wanted, lengths, half),
        runs=(points + len(beside)) * settings.confirm_seeds,
        tokens=lengths.tokens,
        ready=ready,
        stopped=settings.trials - len(beside) - reach[-1],
    )


def _timing(settings: SearchSettings, sizes: Sizes, precision: str, points: int) -> float:
    """Return what timing the dense model and points on this machine takes at most."""
    if settings.device != HERE or sizes.bounds is None:
        return 0.0
    dense = sizes.bounds.latency(None, precision)
    return 0.0 if dense is None else timing_seconds([dense.seconds] * (points + 1))


def asked_about(wanted: Preparation, split: str, size: int | None, lengths: _Lengths) -> float:
    """Return how many samples' worth of questions an exam has.

    Of a user's data there are no more than its split has, however many were asked for. A picture
    of a task that brings its own documents is a sample, if its questions can share a row;
    otherwise each of its questions is a row's worth.
    """
    own = [spec for spec in wanted.tasks if spec.family is None]
    total = 0.0
    if len(own) < len(wanted.tasks):
        asked = splits_of(wanted.data if asks_of_data(wanted.tasks) else None)
        total = float(len(asked.open(split, size)))
    for one in choose(own, split, size):
        shared = one.pool.task.OUTPUT_TYPE == "generate_until" and not lengths.whole
        pictures = len(set(one.pool.images[one.rows].tolist()))
        total += pictures if shared else len(one.rows) / lengths.rows
    return total


def mark(settings: SearchSettings, wanted: Preparation) -> Path:
    """Return the file that says that what a search prepares lies in the cache."""
    return Path(settings.home) / "cache" / f"ready-{content_hash(wanted, code_identity())}"


def set_mark(settings: SearchSettings, wanted: Preparation) -> None:
    """Write down that what a search prepares is cached."""
    path = mark(settings, wanted)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def memory(dense: Inspected, most: int, tokens: int) -> Memory:
    """Say what the largest pieces of work hold at their peak, beside Python and its libraries.

    Args:
        dense: the model.
        most: parameters of the largest candidate.
        tokens: length of a sample.
    """
    itemsize = int(getattr(torch, working_precision(dense)).itemsize)
    rows = rows_within(dense.spec, itemsize, tokens, CALIBRATION_ROWS)
    vocabulary = int(text_config(dense.config).vocab_size)
    return Memory(
        importance=importance_peak(dense.spec, itemsize, tokens, rows),
        surgery=surgery_peak(dense.spec, most, itemsize, vocabulary),
        tokens=tokens,
    )


def _scaled(shape: LayerShape, share: float) -> LayerShape:
    kv_heads = max(1, round(shape.kv_heads * share))
    per_group = shape.heads // shape.kv_heads
    return LayerShape(kv_heads * per_group, kv_heads, max(1, round(shape.channels * share)))


def _step(cost: ModelFlops, shapes: tuple[LayerShape, ...], lengths: _Lengths, scope: str) -> float:
    return cost.step(
        shapes,
        tokens=lengths.tokens,
        predicted=lengths.predicted,
        scope=scope,
        images=int(lengths.image_tokens > 0),
        vision=lengths.whole,
    )


def _lengths(dense: Inspected, splits: Splits, wanted: Preparation) -> _Lengths:
    """Read mean lengths off a few samples, tokenised by the model's own processor."""
    vision = wrapper_of(dense.config).projector is not None
    processor = load_processor(dense.directory, vision)
    started = time.perf_counter()
    # Of a user's data a conversation is what takes long; its questions are asked one a row.
    samples = splits.open("search" if wanted.data is None else "train", _SAMPLE)
    encoded = encode_for(dense.config, samples, processor)
    seconds = time.perf_counter() - started
    rows = len(encoded)
    return _Lengths(
        tokens=round(len(encoded.input_ids) / rows),
        predicted=round(encoded.num_answer_tokens / rows),
        image_tokens=encoded.image_tokens,
        whole=encoded.whole,
        rows=rows / len(samples),
        reading=seconds / len(samples) if encoded.whole and encoded.has_images else 0.0,
        questions=round(sum(len(sample.turns) for sample in samples) / len(samples))
        if wanted.data is None
        else 1,
    )


def _disk(
    dense: Inspected, settings: SearchSettings, wanted: Preparation, lengths: _Lengths, half: float
) -> int:
    spec = dense.spec
    answers = wanted.train_images * lengths.rows * lengths.predicted
    states = round(answers) * spec.hidden_size * 2
    cache = min(states, settings.cache_bytes)
    small = spec.outside_params + half * spec.backbone_params
    kept = settings.confirm_points * small * 4 if settings.keep else 0.0
    return int(cache + kept)
