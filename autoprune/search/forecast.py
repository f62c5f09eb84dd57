"""What a search will take, said before it starts: work counted in FLOPs, speed measured here.

The speed is that of one decoder layer of the model's own shape, with random weights, forward
and backward on a batch like the search's. So a forecast needs seconds and no weights.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import torch

from autoprune.cost.flops import ModelFlops, flops_of, layer_flops
from autoprune.data.encoding import encode_for
from autoprune.models.families import text_config, wrapper_of
from autoprune.models.loading import Inspected, load_processor
from autoprune.models.shape import BackboneSpec, LayerShape
from autoprune.pipeline.prepare import (
    CALIBRATION_ROWS,
    PROBE_IMAGES,
    Preparation,
    working_precision,
)
from autoprune.pruning.footprint import importance_peak, rows_within, surgery_peak
from autoprune.resources import Resources
from autoprune.search.baselines import known
from autoprune.search.outlook import evaluations
from autoprune.search.settings import SearchSettings
from autoprune.search.space import Space
from autoprune.tracking.records import START
from autoprune.zoo import SPLITS, load_split

START_SECONDS = 12.0
"""Ray, imports and the first opening of the exams, on workers that start together."""

SAVED_BY_STOPPING = 0.25
"""Share of the trials' recovery that early stopping saves, as searches have shown."""

SECONDS_A_QUESTION = 2.5e-4
"""What lmms-eval and answering take beside the model's arithmetic."""

TIMED_FLOPS = 5e10
"""Most of a forward pass that is timed on a CPU."""

PLANNED_TOKENS = 1024
"""Length of a sample that memory is said for where no tokenizer says how long they are."""

_SAMPLE = 32
"""Samples that lengths are read off."""


@dataclass(frozen=True)
class Forecast:
    """Seconds and bytes of a search, by stage.

    Attributes:
        prepare: seconds until the first trial starts, where nothing is cached yet.
        trials: seconds of all trials, by the workers given.
        confirm: seconds of the confirmation.
        disk: bytes written: caches and kept weights.
        runs: full recoveries in the confirmation.
        tokens: mean length of a sample.
    """

    prepare: float
    trials: float
    confirm: float
    disk: int
    runs: int
    tokens: int

    @property
    def seconds(self) -> float:
        """All stages together."""
        return self.prepare + self.trials + self.confirm


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
class Speed:
    """Seconds a FLOP of this machine on this model."""

    forward: float
    training: float


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


def forecast(
    settings: SearchSettings, space: Space, wanted: Preparation, dense: Inspected, half: float
) -> Forecast:
    """Say what a search will take on this machine.

    Args:
        settings: of the search.
        space: its knob space.
        wanted: what it prepares.
        dense: its model.
        half: share of the backbone that a candidate keeps on average.
    """
    lengths = _lengths(dense)
    cost = flops_of(dense.config, lengths.image_tokens or None)
    resources = Resources(cpus=settings.cpus_per_trial, gpus=settings.gpus_per_trial)
    dtype = getattr(torch, working_precision(dense))
    speed = measure_speed(dense.config, dense.spec, lengths.tokens, resources, dtype=dtype)
    full = dense.spec.layers
    kept = tuple(_scaled(shape, half) for shape in full)

    def forward(shapes: tuple[LayerShape, ...], samples: float, vision: bool = False) -> float:
        flops = cost.forward(
            shapes,
            tokens=lengths.tokens,
            predicted=lengths.predicted,
            images=int(lengths.image_tokens > 0),
            vision=vision or lengths.whole,
        )
        return samples * lengths.rows * flops * speed.forward

    def score(shapes: tuple[LayerShape, ...], samples: int) -> float:
        asking = samples * lengths.questions * (SECONDS_A_QUESTION + lengths.reading)
        return forward(shapes, samples) + asking

    images = {split: SPLITS[split] if size is None else size for split, size in wanted.splits}
    recover = settings.max_recovery_samples * _step(cost, kept, lengths) * speed.training
    proxy = forward(kept, PROBE_IMAGES)
    rungs = len(space.rungs)
    scored = evaluations(space.rungs, settings.rung_share)
    trial = recover + rungs * proxy + scored * score(kept, images["search"])
    if settings.early_stopping and rungs > 2:
        trial *= 1 - SAVED_BY_STOPPING
    first = known(space, lambda size: 0.5, settings)
    beside = sum(not baseline.name.startswith(START) for baseline in first)
    points = min(settings.confirm_points, settings.trials) + beside
    runs = points * settings.confirm_seeds
    prepare = START_SECONDS
    calibration = wanted.calibration_images * lengths.rows
    prepare += calibration * _step(cost, full, lengths) * speed.training
    prepare += forward(full, wanted.train_images, vision=True)
    prepare += (wanted.train_images + wanted.calibration_images) * lengths.reading
    prepare += sum(score(full, n) + forward(full, n, vision=True) for n in images.values())
    return Forecast(
        prepare=prepare,
        trials=settings.trials * trial / settings.workers,
        confirm=runs * (recover + score(kept, images["confirm"])) / settings.workers,
        disk=_disk(dense, settings, wanted, lengths, half),
        runs=runs,
        tokens=lengths.tokens,
    )


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


def measure_speed(
    config: Any,
    spec: BackboneSpec,
    tokens: int,
    resources: Resources,
    batch: int = 16,
    dtype: torch.dtype = torch.float32,
) -> Speed:
    """Time one decoder layer of a model's shape, forward and backward.

    A layer of a real model on a CPU is given less than a batch, so that this takes seconds.

    Args:
        config: of the whole model.
        spec: its shape.
        tokens: length of a sample.
        resources: of one trial.
        batch: samples of a forward pass.
        dtype: of the weights.
    """
    from transformers import AutoModel

    device = resources.claim()
    one = copy.deepcopy(text_config(config))
    one.num_hidden_layers = 1
    one.vocab_size = 64
    one.pad_token_id = one.bos_token_id = one.eos_token_id = None
    if getattr(one, "layer_types", None):
        one.layer_types = one.layer_types[:1]
    model = AutoModel.from_config(one, dtype=dtype).to(device)
    if device.type == "cpu":
        most = max(16, int(TIMED_FLOPS // layer_flops(spec, _shape_of(one), tokens)))
        tokens = min(tokens, most)
        batch = max(1, min(batch, most // tokens))
    flops = batch * tokens * layer_flops(spec, _shape_of(one), tokens)
    embeds = torch.randn(batch, tokens, one.hidden_size, device=device, dtype=dtype)
    seconds: dict[bool, float] = {}
    for training in (False, True):
        times = []
        for _ in range(4):
            start = time.perf_counter()
            with torch.set_grad_enabled(training):
                states = model(inputs_embeds=embeds).last_hidden_state
                if training:
                    states.sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        seconds[training] = sorted(times)[1]
    return Speed(seconds[False] / flops, seconds[True] / (3 * flops))


def _shape_of(text: Any) -> LayerShape:
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    return LayerShape(heads, kv_heads, text.intermediate_size)


def _scaled(shape: LayerShape, share: float) -> LayerShape:
    kv_heads = max(1, round(shape.kv_heads * share))
    per_group = shape.heads // shape.kv_heads
    return LayerShape(kv_heads * per_group, kv_heads, max(1, round(shape.channels * share)))


def _step(cost: ModelFlops, shapes: tuple[LayerShape, ...], lengths: _Lengths) -> float:
    return cost.step(
        shapes,
        tokens=lengths.tokens,
        predicted=lengths.predicted,
        scope="full",
        images=int(lengths.image_tokens > 0),
        vision=lengths.whole,
    )


def _lengths(dense: Inspected) -> _Lengths:
    """Read mean lengths off a few samples, tokenised by the model's own processor."""
    vision = wrapper_of(dense.config).projector is not None
    processor = load_processor(dense.directory, vision)
    started = time.perf_counter()
    encoded = encode_for(dense.config, load_split("search", _SAMPLE), processor)
    seconds = time.perf_counter() - started
    rows = len(encoded)
    return _Lengths(
        tokens=round(len(encoded.input_ids) / rows),
        predicted=round(encoded.num_answer_tokens / rows),
        image_tokens=encoded.image_tokens,
        whole=encoded.whole,
        rows=rows / _SAMPLE,
        reading=seconds / _SAMPLE if encoded.whole and encoded.has_images else 0.0,
        questions=round(sum(len(s.turns) for s in load_split("search", _SAMPLE)) / _SAMPLE),
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
