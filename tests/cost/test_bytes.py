"""Bytes in closed form are those of the tensors that are really saved."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path

import pytest
import torch
from support.models import tiny_llava_config, tiny_model, tiny_processor

from autoprune.cost.bytes import dense_bytes, format_bytes, linears_of, stored_bytes
from autoprune.errors import AutoPruneError
from autoprune.models import checkpoint
from autoprune.models.arrays import state_arrays
from autoprune.models.checkpoint import save_checkpoint
from autoprune.models.precision import ITEM_BYTES, PRECISIONS, precision_beside
from autoprune.models.quantise import quantise
from autoprune.models.shape import spec_of
from autoprune.pruning.plan import LayerPlan, PruningPlan
from autoprune.pruning.surgery import prune

QUANTISED = ("int8", "int4")
ALL = tuple(range(4)), tuple(range(24))


def saved_tensor_bytes(directory: Path) -> int:
    total = 0
    for path in directory.glob("*.safetensors"):
        with path.open("rb") as stream:
            header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        header.pop("__metadata__", None)
        for row in header.values():
            begin, end = row["data_offsets"]
            assert end - begin == prod(row["shape"]) * ITEM_BYTES[row["dtype"]]
            total += end - begin
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("precision", QUANTISED)
def test_bytes_are_those_of_the_saved_tensors(
    precision: str,
    tied: bool,
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint, "prove_reload", lambda directory, reference: None)
    name = str(dtype).removeprefix("torch.")
    both = precision_beside(precision, name)
    dense = tiny_model(tied=tied, bias=True)
    spec = spec_of(dense)
    layers = (LayerPlan(0, (0, 1), (0, 5, 7)), LayerPlan(2, ALL[0], ALL[1][:16]))
    plan = PruningPlan("llama", spec.identity, 4, spec.q_per_group, layers)
    model = prune(dense.config, state_arrays(dense), plan, dtype=dtype, spec=spec)
    for state in ("plain", "quantised"):
        if state == "quantised":
            quantise(model, both)
        save_checkpoint(model, tiny_processor(), tmp_path / state)
        stored = stored_bytes(spec, plan, name if state == "plain" else both)
        assert saved_tensor_bytes(tmp_path / state) == stored


def test_the_rest_keeps_the_dense_models_precision() -> None:
    spec = spec_of(tiny_llava_config())
    assert precision_beside("int8", "float32") == "int8"
    assert precision_beside("int4", "bfloat16") == "int4-bf16"
    assert precision_beside("float32", "bfloat16") == "bfloat16"
    for name, row in PRECISIONS.items():
        assert precision_beside(name, row.dtype) == name
        assert dense_bytes(spec, name) == row.item_bytes * spec.total_params
    halves = stored_bytes(spec, None, "int8") - stored_bytes(spec, None, "int8-bf16")
    weights = sum(r * c for shape in spec.layers for r, c in linears_of(spec, shape))
    assert halves == 2 * (spec.total_params - weights)


def test_without_quantisation_every_parameter_counts_alike() -> None:
    spec = spec_of(tiny_llava_config())
    assert stored_bytes(spec) == 4 * spec.total_params
    assert stored_bytes(spec, precision="bfloat16") == 2 * spec.total_params
    smaller = stored_bytes(spec, spec.layers[:2], "int8")
    assert smaller < stored_bytes(spec, spec.layers[:2]) < stored_bytes(spec)
    with pytest.raises(AutoPruneError, match="unknown precision 'int3'"):
        stored_bytes(spec, precision="int3")


@pytest.mark.parametrize(
    ("count", "text"),
    [(512, "512B"), (2**10, "1KiB"), (3 * 2**20 // 2, "1.5MiB"), (3 * 2**30, "3GiB")],
)
def test_bytes_are_written_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text
