"""The contract of quantised models, for every family: stored as counted, loaded as they were."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from support.families import CASES, CHANNELS, HEADS, LAYERS
from support.families import build_model as build
from support.oracle import Kept, logits, plan_of

from autoprune.cost.bytes import stored_bytes
from autoprune.models.arrays import state_arrays
from autoprune.models.backbone import backbone_of
from autoprune.models.checkpoint import records_shapes
from autoprune.models.loading import per_layer_class, quiet
from autoprune.models.quantise import quantise
from autoprune.models.shape import model_class, spec_of
from autoprune.pruning.surgery import prune

ALL_HEADS, ALL_CHANNELS = tuple(range(HEADS)), tuple(range(CHANNELS))
WHOLE: Kept = dict.fromkeys(range(LAYERS), (ALL_HEADS, ALL_CHANNELS))
PLANS: dict[str, Kept] = {
    "mixed": {0: ((), (0, 1, 23)), 1: ((0, 1), ALL_CHANNELS), 3: (ALL_HEADS, (7,))},
    "uniform": {i: ((i % 2, 2), tuple(range(i, i + 16))) for i in (0, 1, 3)},
}
QUANTISED = ("int8", "int4")


def stored(directory: Path) -> int:
    """Bytes of the tensors in a directory's weights."""
    total = 0
    for path in directory.glob("*.safetensors"):
        with path.open("rb") as stream:
            table = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        rows = (row for name, row in table.items() if name != "__metadata__")
        total += sum(row["data_offsets"][1] - row["data_offsets"][0] for row in rows)
    return total


def saved(model: Any, directory: Path) -> Path:
    with quiet():
        model.save_pretrained(directory, save_original_format=not records_shapes(model.config))
    return directory


@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.parametrize("name", CASES, ids=str)
def test_quantised_models_are_stored_as_counted_and_load_as_they_were(
    name: str, precision: str, tmp_path: Path
) -> None:
    case = CASES[name]
    dense = build(case.config())
    spec, arrays, inputs = spec_of(dense), state_arrays(dense), case.inputs()
    for what, kept in PLANS.items():
        plan = plan_of(dense, kept)
        model = prune(dense.config, arrays, plan, spec=spec)
        before = logits(model, inputs)
        done = quantise(model, precision)
        assert set(done.linears) | set(done.left) == set(backbone_of(model).linear_names())
        own = logits(model, inputs)
        assert (own - before).abs().max() > 0, what
        folder = saved(model, tmp_path / what)
        assert stored(folder) == stored_bytes(spec, plan, precision), what
        kind = model_class(dense.config)
        kind = per_layer_class(kind) if records_shapes(model.config) else kind
        with quiet():
            again, info = kind.from_pretrained(folder, dtype="auto", output_loading_info=True)
        assert not any(info.values()), what
        assert (logits(again.eval(), inputs) == own).all(), what
        assert spec_of(again).total_params == spec.params_of(plan.shapes)


@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.parametrize("name", ["llava-llama", "phi", "phi3", "gemma3_text", "qwen3"])
def test_a_stock_loader_of_per_layer_shapes_fails_or_is_right(
    name: str, precision: str, tmp_path: Path
) -> None:
    """Loading checks no quantised shape: then the first pass does, or nothing was different."""
    case = CASES[name]
    dense = build(case.config())
    spec, arrays, inputs = spec_of(dense), state_arrays(dense), case.inputs()
    for what, kept in {
        "mixed": PLANS["mixed"],
        "one-attention": {**WHOLE, 2: ((), ALL_CHANNELS)},
        "one-mlp": {**WHOLE, 2: (ALL_HEADS, ())},
        "heads-of-one-layer": {**WHOLE, 2: ((0, 2), ALL_CHANNELS)},
        "channels-of-one-layer": {**WHOLE, 2: (ALL_HEADS, ALL_CHANNELS[:7])},
    }.items():
        model = prune(dense.config, arrays, plan_of(dense, kept), spec=spec)
        quantise(model, precision)
        own = logits(model, inputs)
        folder = saved(model, tmp_path / what)
        try:
            with quiet():
                loaded = model_class(dense.config).from_pretrained(folder, dtype="auto").eval()
            found = logits(loaded, inputs)
        except (RuntimeError, ValueError):
            continue
        assert (found == own).all(), what
