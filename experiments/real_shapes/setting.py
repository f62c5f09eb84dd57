"""What is measured: shapes of models at a scale, calibration rows, candidates, the machine."""

from __future__ import annotations

import contextlib
import copy
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.data.encoding import EncodedSet
from autoprune.errors import AutoPruneError
from autoprune.models.loading import quiet
from autoprune.models.shape import BackboneSpec, model_class
from autoprune.pruning.allocation import allocate
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.plan import LayerPlan, PruningPlan, dense_plan, heads_of_groups
from autoprune.pruning.scores import Importance, scores

HERE = Path(__file__).parent
MODELS = ("llava-1.5-7b", "qwen2.5-vl-7b", "mini-internvl-4b", "bunny-3b")
MULTIPLE = 64
REMOVED = (0.15, 0.30, 0.45, 0.60)
CLASSES = {
    "layer": Allocation(axis="depth"),
    "width": Allocation(axis="width", temperature=0),
    "any": Allocation(axis="hybrid", depth_share=0.3, temperature=0.5),
}


@dataclass(frozen=True)
class Scale:
    """How large and how often things are measured.

    Attributes:
        layers: of each model's backbone; None leaves them all.
        models: that are measured by default.
        tokens: positions before the first generated token: 576 of an image and 64 of text.
        rows: calibration rows of the importance pass.
        steps: decode steps that are timed together.
        repeats: of the time of a decode step.
        fills: of that of a prefill.
        trim: shrink what pruning leaves alone: vision tower and vocabulary.
    """

    layers: dict[str, int] | None
    models: tuple[str, ...]
    tokens: int
    rows: int
    steps: int
    repeats: int
    fills: int
    trim: bool


SCALES = {
    "full": Scale(None, MODELS, 640, 128, 64, 7, 7, False),
    "cpu": Scale(
        {"llava-1.5-7b": 6, "qwen2.5-vl-7b": 4, "mini-internvl-4b": 6, "bunny-3b": 6},
        MODELS,
        128,
        2,
        2,
        6,
        2,
        True,
    ),
}


def shape(name: str, scale: Scale) -> Any:
    """Return a model's configuration at a scale."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(HERE / "shapes" / name)
    text, vision = config.text_config, config.vision_config
    if scale.layers is not None:
        text.num_hidden_layers = scale.layers[name]
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[: scale.layers[name]]
    if scale.trim:
        text.vocab_size = 4096
        text.pad_token_id = text.bos_token_id = text.eos_token_id = 0
        config.image_token_id = 4095
        for count in ("num_hidden_layers", "depth"):
            if hasattr(vision, count):
                setattr(vision, count, 2)
        if hasattr(vision, "fullatt_block_indexes"):
            vision.fullatt_block_indexes = [1]
        if hasattr(config, "video_token_id"):
            config.video_token_id = 4094
            config.vision_start_token_id, config.vision_end_token_id = 4092, 4093
    return config


def random_checkpoint(config: Any, directory: Path, device: torch.device) -> None:
    """Save a model of random weights in bfloat16; initialised on ``device``, where that is fast."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(0)
    try:
        with torch.device(device):
            model = model_class(config)(copy.deepcopy(config))
    finally:
        torch.set_default_dtype(before)
    with quiet():
        model.to(torch.bfloat16).save_pretrained(directory, max_shard_size="4GB")


def rows_of(config: Any, count: int, tokens: int) -> EncodedSet:
    """Make calibration rows of random words, the last eight of each the answer."""
    answers = 8
    rng = np.random.default_rng(0)
    ids = rng.integers(5, config.get_text_config().vocab_size // 2, count * tokens).astype(np.int32)
    asked = np.tile(np.arange(tokens) >= tokens - answers, count)
    return EncodedSet(
        input_ids=ids,
        labels=np.where(asked, ids, -100).astype(np.int32),
        segments=np.ones(count * tokens, np.int32),
        positions=np.tile(np.arange(tokens, dtype=np.int32), count),
        offsets=np.arange(count + 1) * tokens,
        answer_offsets=np.arange(count + 1) * answers,
        samples=np.arange(count),
        image_rows=np.zeros((count, 2), np.int64),
        pixel_values=None,
        ring=np.arange(count) / count,
        strata=np.zeros(count, np.int64),
        packed=False,
        image_token_id=-1,
        pad_token_id=0,
    )


def thin_plan(spec: BackboneSpec) -> PruningPlan:
    """Keep every layer and next to nothing in it: what a layer costs beside its bytes."""
    layers = tuple(
        LayerPlan(index, heads_of_groups((0,), spec.q_per_group), tuple(range(MULTIPLE)))
        for index in range(len(spec.layers))
    )
    return PruningPlan(spec.model_type, spec.identity, len(spec.layers), spec.q_per_group, layers)


def plans_of(spec: BackboneSpec, importance: Importance) -> dict[str, PruningPlan]:
    """Return every plan that is measured, by case; the anchors of the forecast first."""
    plans = {"dense": dense_plan(spec), "thin": thin_plan(spec)}
    unit_scores = scores(importance)
    for removed in REMOVED:
        target = round(spec.total_params - removed * spec.backbone_params)
        for kind, allocation in CLASSES.items():
            # A few layers, as on a CPU, cannot give every size up.
            with contextlib.suppress(AutoPruneError):
                plan = allocate(spec, unit_scores, allocation, target, MULTIPLE)
                plans[f"{kind}-{removed:.0%}"] = plan
    return plans


def machine(device: torch.device) -> dict[str, Any]:
    """Say what measured."""
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else None
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    threads = torch.get_num_threads()
    return {"gpu": gpu, "cpu": cpu, "threads": threads, "torch": torch.__version__}
