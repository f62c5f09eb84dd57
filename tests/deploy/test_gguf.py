"""GGUF files are the model, as llama.cpp runs them; what its graphs cannot hold is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import CASES, build_model
from support.pruned import MIXED
from support.tokenizers import byte_fallback, byte_level, save_sentencepiece

from autoprune.deploy.formats.format import Outline
from autoprune.deploy.formats.gguf import FILE, GRAPHS, Gguf, _prove
from autoprune.errors import AutoPruneError
from autoprune.models.loading import load_model
from autoprune.models.shape import spec_of
from autoprune.pruning.plan import LayerPlan, PruningPlan
from autoprune.pruning.surgery import pruned_config

WINDOWS = {"layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
TEXT: dict[str, dict[str, Any]] = {"gemma3-gemma3_text": WINDOWS, "gemma3_text": WINDOWS}
TOKENIZERS = {"qwen2": byte_level, "qwen3": byte_level}


def saved(name: str, folder: Path, spare: int = 0) -> Path:
    """A dense checkpoint with a tokenizer that llama.cpp reads, and ``spare`` rows without one."""
    folder.mkdir()
    case = CASES[name]
    if case.text in ("phi3", "gemma3_text"):
        tokenizer: Any = save_sentencepiece(folder, spaced=case.text == "phi3")
    else:
        tokenizer = TOKENIZERS.get(case.text, byte_fallback)()
    config = case.config(vocab_size=len(tokenizer) + spare, **TEXT.get(name, {}))
    build_model(config).save_pretrained(folder)
    if case.vision:
        case.processor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava-llama", "qwen2", "qwen3", "phi3", "gemma3_text"])
def test_the_file_is_the_model(name: str, tmp_path: Path) -> None:
    checkpoint, out = saved(name, tmp_path / "made", spare=3), tmp_path / "out"
    out.mkdir()
    config = load_model(checkpoint).config
    Gguf().check(Outline(name, config, "float32", checkpoint))
    written = Gguf().write(checkpoint, out, lambda text: None)
    assert [path.name for path in out.iterdir()] == [FILE]
    assert 0 < written.figures["prefill"] < 5e-3 * written.figures["scale"]
    notes = " ".join(written.loading.notes)
    assert "3 rows of the embedding that no token has are left out" in notes
    assert ("reads text only" in notes) is CASES[name].vision
    assert ("vision part is not written" in written.proved[0]) is CASES[name].vision


@pytest.mark.slow
def test_another_model_is_not_the_file(tmp_path: Path) -> None:
    checkpoint, out = saved("llama", tmp_path / "made"), tmp_path / "out"
    out.mkdir()
    Gguf().write(checkpoint, out, lambda text: None)
    loaded = load_model(checkpoint)
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        loaded.model.get_decoder().layers[0].mlp.down_proj.weight[0, 0] += 0.5
    with pytest.raises(AutoPruneError, match=r"is not the model \(log-probabilities differ"):
        _prove(loaded.model, loaded.processor, rows, out / FILE, 1e-3)


def outline(name: str, folder: Path, *, kept: dict[int, Any] | None = None, **text: Any) -> Outline:
    config = CASES[name].config(**text)
    if kept is not None:
        spec = spec_of(config)
        layers = tuple(LayerPlan(i, heads, units) for i, (heads, units) in kept.items())
        plan = PruningPlan(spec.model_type, spec.identity, len(spec.layers), 2, layers)
        config = pruned_config(config, plan)
    byte_fallback().save_pretrained(folder)
    return Outline("demo:7", config, "float32", folder)


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("llava-llama", {"kept": MIXED}, "layers have different shapes.*--deployable stock"),
        ("qwen2_vl-qwen2_vl_text", {}, "text backbone qwen2_vl_text is none of llama"),
        ("phi", {}, "text backbone phi is none of"),
        ("qwen2", {"hidden_size": 64}, "graph wants 8 heads of 8.*it has 4"),
        ("gemma3_text", {}, "each 6th layer looks at everything"),
    ],
)
def test_what_no_graph_holds_is_refused(
    name: str, more: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(AutoPruneError, match=f"format gguf cannot hold demo:7: .*{said}"):
        Gguf().check(outline(name, tmp_path, **more))


def test_tokenizers_and_precisions_are_refused(tmp_path: Path) -> None:
    found = outline("llama", tmp_path / "made")
    Gguf().check(found)
    with pytest.raises(AutoPruneError, match="its weights are int8"):
        Gguf().check(Outline("demo:7", found.config, "int8", found.directory))
    CASES["llama"].processor().save_pretrained(tmp_path / "words")
    with pytest.raises(AutoPruneError, match="its tokenizer is of kind WordLevel"):
        Gguf().check(Outline("demo:7", found.config, "float32", tmp_path / "words"))


def test_missing_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.deploy.formats.gguf.LIBRARIES", {"no_such": "its-package"})
    with pytest.raises(AutoPruneError, match=r"needs its-package.*autoprune\[gguf\]"):
        Gguf().check(outline("llama", tmp_path))


def test_every_graph_is_of_a_family() -> None:
    assert set(GRAPHS) <= {case.text for case in CASES.values()}
