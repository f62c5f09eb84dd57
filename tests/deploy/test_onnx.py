"""Graphs are the model: prompts, images and cached steps, of layers alike and not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.families import CASES
from support.pruned import pruned_checkpoint

from autoprune.deploy.formats.format import Outline
from autoprune.deploy.formats.onnx import RUNNER, TOLERANCE, Onnx, _loading, _prove, _traced_below
from autoprune.errors import AutoPruneError
from autoprune.models.families import WRAPPERS
from autoprune.models.loading import inspect_model, load_model
from autoprune.models.proof import probe_inputs

pytestmark = pytest.mark.slow
KEYS = [
    ("llava-llama", "any"),
    ("internvl-qwen2", "stock"),
    ("llava-phi3", "any"),
    ("qwen3", "any"),
]


@pytest.mark.parametrize(("name", "kind"), KEYS, ids=[f"{n}-{k}" for n, k in KEYS])
def test_graphs_are_the_model(name: str, kind: str, tmp_path: Path) -> None:
    checkpoint, out = pruned_checkpoint(name, kind, tmp_path), tmp_path / "out"
    out.mkdir()
    written = Onnx().write(checkpoint, out, lambda text: None)
    for figure in ("prefill", "steps"):
        assert 0 < written.figures[figure] <= TOLERANCE * written.figures["scale"]
    settings = json.loads((out / "onnx.json").read_text())
    assert set(settings["graphs"]) == {p.stem for p in (out / "onnx").glob("*.onnx")}
    assert ("vision_encoder" in settings["graphs"]) is CASES[name].vision
    heads = [row[0] for row in settings["cache"]]
    # A dropped attention sublayer still counts positions, in one head of one entry.
    assert heads == [shape.kv_heads or 1 for shape in inspect_model(checkpoint).spec.layers]
    said = " ".join((written.loading.needs, *written.loading.notes))
    assert ("the script here can" in said) is (len(set(heads)) > 1)
    assert ("--image" in said) is CASES[name].vision
    assert (out / RUNNER).is_file()
    assert not list(out.rglob("__pycache__"))


def test_other_weights_are_not_the_model(tmp_path: Path) -> None:
    checkpoint, out = pruned_checkpoint("llama", "stock", tmp_path), tmp_path / "out"
    out.mkdir()
    Onnx().write(checkpoint, out, lambda text: None)
    model = load_model(checkpoint).model
    with torch.no_grad():
        model.get_decoder().layers[0].mlp.down_proj.weight[0, 0] += 0.5
    settings = json.loads((out / "onnx.json").read_text())
    with pytest.raises(AutoPruneError, match="the graphs are not the model"):
        _prove(model, probe_inputs(model), settings, out)
    shutil.rmtree(out / "onnx")
    with pytest.raises(AutoPruneError, match="does not load in a fresh process"):
        _prove(model, probe_inputs(model), settings, out)


WHOLE = [name for name, case in CASES.items() if WRAPPERS[case.wrapper].whole]


@pytest.mark.parametrize("name", WHOLE)
def test_more_than_embeddings_is_refused(name: str) -> None:
    outline = Outline("demo:7", CASES[name].config(), "float32", Path())
    with pytest.raises(AutoPruneError, match=r"cannot hold demo:7.*--format hf"):
        Onnx().check(outline)


def test_quantised_weights_are_refused() -> None:
    config = CASES["llava-llama"].config()
    Onnx().check(Outline("demo:7", config, "bfloat16", Path()))
    with pytest.raises(AutoPruneError, match="its weights are int4"):
        Onnx().check(Outline("demo:7", config, "int4", Path()))


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.deploy.formats.onnx.LIBRARIES", ("onnx", "no_such_library"))
    outline = Outline("demo:7", CASES["llama"].config(), "float32", Path())
    with pytest.raises(AutoPruneError, match=r"needs no_such_library.*autoprune\[onnx\]"):
        Onnx().check(outline)


def test_positions_that_change_with_length_are_told() -> None:
    factors = [1.0] * 4
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": factors}
    rope |= {"long_factor": factors, "original_max_position_embeddings": 256}
    config = CASES["phi3"].config(max_position_embeddings=131072, rope_parameters=rope)
    assert _traced_below(config) == 256
    assert _traced_below(CASES["phi3"].config()) is None
    assert "Beyond 256 tokens" in " ".join(_loading(False, True, 256).notes)
