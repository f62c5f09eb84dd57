"""Weights read from their files are those of the loaded model, under the same names."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import CASES, build_model
from support.models import tiny_checkpoint, tiny_inputs, tiny_model, tiny_processor

from autoprune.errors import AutoPruneError
from autoprune.models.arrays import from_arrays, state_arrays
from autoprune.models.checkpoint import save_checkpoint
from autoprune.models.loading import inspect_model, load_config, load_model, quiet
from autoprune.models.shape import model_class, spec_of
from autoprune.models.source import WeightSource, load_from, weight_source
from autoprune.pipeline.prepare import inspect
from autoprune.pruning.plan import LayerPlan, PruningPlan
from autoprune.pruning.surgery import prune

WEIGHTS = "model.safetensors"


def source_of(directory: Path, dtype: torch.dtype) -> WeightSource:
    source = weight_source(directory, load_config(directory), dtype)
    assert source is not None
    return source


def loaded(directory: Path, dtype: torch.dtype) -> Any:
    """What transformers' own loader makes of a directory."""
    config = load_config(directory)
    with quiet():
        return model_class(config).from_pretrained(directory, dtype=dtype).eval()


def check_equal(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        assert np.array_equal(found[name], array), name
        assert not isinstance(found, WeightSource) or not found[name].flags.writeable, name


@pytest.mark.parametrize("name", CASES)
def test_the_source_is_what_transformers_loads(name: str, tmp_path: Path) -> None:
    """Saved under the names of old releases and under those in memory, tied and untied."""
    for number, (legacy, stored, dtype) in enumerate(
        [
            (True, torch.bfloat16, torch.bfloat16),
            (False, torch.float32, torch.float32),
            (True, torch.float16, torch.bfloat16),
        ]
    ):
        tied = None if number else True
        model = build_model(CASES[name].config(tied=tied), seed=number).to(stored)
        place = tmp_path / str(number)
        with quiet():
            model.save_pretrained(place, save_original_format=legacy)
        check_equal(source_of(place, dtype), state_arrays(loaded(place, dtype)))


def test_old_names_differ_from_those_in_memory(tmp_path: Path) -> None:
    """Control of the test above: something was renamed there."""
    tiny_model().save_pretrained(tmp_path)
    stored = load_file(tmp_path / WEIGHTS)
    assert not set(stored) <= set(source_of(tmp_path, torch.float32))


def test_shards_and_leftovers_of_old_releases(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    check_equal(source_of(tmp_path, torch.float32), state_arrays(model))
    single = tmp_path / "single"
    model.save_pretrained(single)
    tensors = load_file(single / WEIGHTS)
    tensors["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, single / WEIGHTS, metadata={"format": "pt"})
    check_equal(source_of(single, torch.float32), state_arrays(model))


def test_a_pruned_checkpoint(tmp_path: Path) -> None:
    dense = tiny_model()
    spec = spec_of(dense)
    layers = (LayerPlan(0, (0, 1), (1, 5)), LayerPlan(2, (), (0, 3, 4)), LayerPlan(3, (2, 3), ()))
    plan = PruningPlan("llama", spec.identity, 4, spec.q_per_group, layers)
    pruned = prune(dense.config, state_arrays(dense), plan)
    saved = save_checkpoint(pruned, tiny_processor(), tmp_path / "out").path
    check_equal(source_of(saved, torch.float32), state_arrays(pruned))
    with pytest.raises(AutoPruneError, match="pruned layer by layer already"):
        inspect(str(saved))  # what a search and its dry run ask first


@pytest.mark.parametrize("name", CASES)
def test_embeddings_that_are_tied_by_mistake(name: str, tmp_path: Path) -> None:
    model = build_model(CASES[name].config(tied=False))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for section in (config, config.get("text_config", {})):
        section["tie_word_embeddings"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(AutoPruneError, match="set tie_word_embeddings to false"):
        source_of(tmp_path, torch.float32)
    # Both may be there and be equal, as older releases saved them.
    with torch.no_grad():
        model.get_output_embeddings().weight.copy_(model.get_input_embeddings().weight)
    model.save_pretrained(tmp_path / "equal")
    (tmp_path / "equal" / "config.json").write_text(json.dumps(config))
    tied = from_arrays(load_config(tmp_path), source_of(tmp_path / "equal", torch.float32))
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight


def test_it_travels_as_paths(tmp_path: Path) -> None:
    tiny_model(hidden=64, channels=4096).save_pretrained(tmp_path)
    source = source_of(tmp_path, torch.float32)
    carried = pickle.dumps(source, protocol=5)
    assert len(carried) < 0.02 * (tmp_path / WEIGHTS).stat().st_size
    check_equal(pickle.loads(carried), source)
    assert len(source) == len(list(source))


def test_the_model_built_from_it(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path)
    config = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(json.dumps({**config, "max_length": 77}))
    found, usual = inspect_model(tmp_path), load_model(tmp_path, torch.bfloat16)
    source = source_of(tmp_path, torch.bfloat16)
    ours = load_from(found, source)
    inputs = tiny_inputs()
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    with torch.no_grad():
        assert torch.equal(ours.model(**inputs).logits, usual.model(**inputs).logits)
    assert ours.model.dtype == torch.bfloat16
    assert (ours.identity, ours.spec, ours.licence) == (usual.identity, usual.spec, usual.licence)
    assert ours.model.generation_config.to_dict() == usual.model.generation_config.to_dict()
    assert ours.config.to_dict() == usual.config.to_dict()
    assert not ours.model.training
    # Surgery reads from it, and what it makes is not tied to the files.
    spec = found.spec
    plan = PruningPlan("llama", spec.identity, 4, 2, (LayerPlan(1, (0, 1), (0, 2)),))
    one, other = (prune(found.config, w, plan) for w in (source, state_arrays(usual.model)))
    check_equal(state_arrays(one), state_arrays(other))
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(1)
    check_equal(source, state_arrays(usual.model))


def test_misfits_are_refused(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    source = source_of(tmp_path, torch.float32)
    tensors = load_file(tmp_path / WEIGHTS)
    name = next(iter(tensors))

    def rewrite(changed: dict[str, torch.Tensor]) -> None:
        save_file(changed, tmp_path / WEIGHTS, metadata={"format": "pt"})

    rewrite({**tensors, "vision_tower.novel": torch.ones(1)})
    with pytest.raises(AutoPruneError, match="novel"):
        source_of(tmp_path, torch.float32)
    rewrite({key: value for key, value in tensors.items() if key != name})
    with pytest.raises(AutoPruneError, match="lacks"):
        source_of(tmp_path, torch.float32)
    rewrite({**tensors, name: torch.ones(3)})
    with pytest.raises(AutoPruneError, match="another shape"):
        source_of(tmp_path, torch.float32)
    with pytest.raises(AutoPruneError, match="has changed since"):
        source[next(iter(source))]
    os.utime(tmp_path / WEIGHTS, ns=(1, 1))
    with pytest.raises(AutoPruneError, match="has changed since"):
        from_arrays(model.config, source)
    os.rename(tmp_path / WEIGHTS, tmp_path / "away")
    with pytest.raises(AutoPruneError, match="cannot be read any more"):
        source[next(iter(source))]
    os.rename(tmp_path / "away", tmp_path / WEIGHTS)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "any"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert weight_source(tmp_path, model.config, torch.float32) is None
