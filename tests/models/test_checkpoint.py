"""Saved checkpoints: complete, proved in a fresh process, or not there at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import tiny_inputs, tiny_model, tiny_processor, tiny_text_config, tiny_tokenizer

from autoprune.errors import AutoPruneError
from autoprune.models import checkpoint
from autoprune.models.arrays import state_arrays
from autoprune.models.checkpoint import (
    CODE_FILE,
    check_output_dir,
    modelling_code,
    prove_reload,
    reference_of,
    save_checkpoint,
)
from autoprune.models.loading import load_model
from autoprune.models.shape import spec_of
from autoprune.pruning.plan import LayerPlan, PruningPlan
from autoprune.pruning.surgery import prune

ALL = tuple(range(4)), tuple(range(24))


def pruned_model(config: Any = None, dtype: torch.dtype | None = None, **text: Any) -> Any:
    dense = tiny_model(config, **text)
    spec = spec_of(dense)
    layers = (LayerPlan(0, (0, 1), (0, 5, 7)), LayerPlan(1, (), ALL[1]), LayerPlan(3, ALL[0], ()))
    plan = PruningPlan("llama", spec.identity, 4, spec.q_per_group, layers)
    return prune(dense.config, state_arrays(dense), plan, dtype=dtype, spec=spec)


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the fresh process where a test is about something else."""
    monkeypatch.setattr(checkpoint, "prove_reload", lambda directory, reference: None)


@pytest.mark.slow
def test_saved_llava_loads_in_a_process_without_autoprune(tmp_path: Path) -> None:
    model, processor = pruned_model(), tiny_processor()
    out = tmp_path / "deep" / "out"
    saved = save_checkpoint(model, processor, out, {"plan.json": "{}", "scores.bin": b"\x00"})
    assert saved.proof.max_abs_diff <= 1e-5 * saved.proof.scale
    assert saved.proof.missing == saved.proof.unexpected == ()
    assert saved.proof.model_class == "AutoPruneLlavaForConditionalGeneration"
    assert (out / "scores.bin").read_bytes() == b"\x00"
    assert (out / "plan.json").read_text() == "{}"
    assert "trust_remote_code=True" in (out / "README.md").read_text()
    assert [p.name for p in out.parent.iterdir()] == ["out"], "nothing is left beside it"
    if os.name == "posix":
        assert (out / "model.safetensors").stat().st_mode & 0o044 == (
            out / CODE_FILE
        ).stat().st_mode & 0o044
    # An own process, written as a stranger would: the loading lines of the card.
    inputs = tiny_inputs()
    torch.save(inputs, tmp_path / "inputs.pt")
    script = f"""
import sys, torch
from transformers import AutoModelForImageTextToText, AutoProcessor
directory = {str(out)!r}
model, info = AutoModelForImageTextToText.from_pretrained(
    directory, trust_remote_code=True, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
processor = AutoProcessor.from_pretrained(directory, trust_remote_code=True)
assert processor.chat_template
inputs = torch.load({str(tmp_path / "inputs.pt")!r})
torch.save((model.eval()(**inputs).logits, model.generate(**inputs, do_sample=False,
    max_new_tokens=5, suppress_tokens=[4])), {str(tmp_path / "out.pt")!r})
assert not any(name.split(".")[0] == "autoprune" for name in sys.modules)
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment, timeout=300
    )
    logits, tokens = torch.load(tmp_path / "out.pt")
    torch.testing.assert_close(logits, model(**inputs).logits, rtol=0, atol=1e-5)
    own = model.generate(**inputs, do_sample=False, max_new_tokens=5, suppress_tokens=[4])
    assert torch.equal(tokens, own)


@pytest.mark.slow
def test_saved_language_model_in_bfloat16_reloads(tmp_path: Path) -> None:
    model = pruned_model(tiny_text_config(tied=False, gqa=False), dtype=torch.bfloat16)
    saved = save_checkpoint(model, tiny_tokenizer(), tmp_path / "out")
    assert saved.proof.max_abs_diff <= 1e-2 * saved.proof.scale
    again = load_model(tmp_path / "out", dtype=torch.bfloat16)
    inputs = tiny_inputs(images=False)
    assert torch.equal(again.model(**inputs).logits, model(**inputs).logits)


@pytest.mark.slow
def test_what_cannot_be_proved_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = pruned_model(tied=False), tiny_processor()
    write = checkpoint._write

    def legacy_names(model: Any, processor: Any, work: Path, card: Any) -> None:
        """Save as transformers does by default: under the names of older releases."""
        write(model, processor, work, card)
        config, code = (work / "config.json").read_text(), (work / CODE_FILE).read_text()
        model.save_pretrained(work)
        (work / "config.json").write_text(config)
        (work / CODE_FILE).write_text(code)

    monkeypatch.setattr(checkpoint, "_write", legacy_names)
    with pytest.raises(AutoPruneError, match="nothing was written"):
        save_checkpoint(model, processor, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_proof_sees_another_model_and_code_that_needs_autoprune(
    tmp_path: Path, unproved: None
) -> None:
    model, processor = pruned_model(), tiny_processor()
    out = save_checkpoint(model, processor, tmp_path / "out").path
    reference = reference_of(model, processor)
    with torch.no_grad():
        model.get_decoder().norm.weight.mul_(1.01)
    with pytest.raises(AutoPruneError, match="logits differ"):
        prove_reload(out, reference_of(model, processor))
    code = out / CODE_FILE
    code.write_text(code.read_text() + "\nfrom autoprune.errors import AutoPruneError\n")
    with pytest.raises(AutoPruneError, match="does not load in a fresh process"):
        prove_reload(out, reference)


def test_any_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = pruned_model(), tiny_processor()
    for failure in (KeyboardInterrupt(), AutoPruneError("no"), OSError(28, "No space left")):

        def fail(directory: Path, reference: Any, failure: BaseException = failure) -> None:
            assert (directory / CODE_FILE).is_file()
            raise failure

        monkeypatch.setattr(checkpoint, "prove_reload", fail)
        expected = AutoPruneError if isinstance(failure, OSError) else type(failure)
        with pytest.raises(expected):
            save_checkpoint(model, processor, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []


def test_an_output_that_fills_up_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(directory: Path, reference: Any) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious").write_text("")

    monkeypatch.setattr(checkpoint, "prove_reload", fill)
    with pytest.raises(AutoPruneError, match="meanwhile"):
        save_checkpoint(pruned_model(), tiny_processor(), tmp_path / "out")
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "precious"]


def test_empty_directory_is_taken(tmp_path: Path, unproved: None) -> None:
    (tmp_path / "out").mkdir()
    saved = save_checkpoint(pruned_model(), tiny_processor(), tmp_path / "out")
    assert (saved.path / "model.safetensors").is_file()


def test_saving_changes_nothing_in_the_model(tmp_path: Path, unproved: None) -> None:
    model = pruned_model()
    config = model.config.to_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_checkpoint(model, tiny_processor(), tmp_path / "out")
    assert model.config.to_dict() == config
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_own_checkpoint_loads_here_too(tmp_path: Path, unproved: None) -> None:
    model = pruned_model()
    save_checkpoint(model, tiny_processor(), tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    assert loaded.spec == spec_of(model)
    assert torch.equal(loaded.model(**tiny_inputs()).logits, model(**tiny_inputs()).logits)
    again = save_checkpoint(loaded.model, loaded.processor, tmp_path / "again").path
    assert modelling_code(loaded.config)[0] == (again / CODE_FILE).read_text()
    assert load_model(again).identity == loaded.identity


def test_stock_loader_stumbles_instead_of_inventing(tmp_path: Path, unproved: None) -> None:
    """A dropped sublayer alone must not come back as a random one."""
    from transformers import AutoModelForImageTextToText

    dense = tiny_model()
    spec = spec_of(dense)
    for place, layer in enumerate((LayerPlan(0, (), ALL[1]), LayerPlan(0, ALL[0], ()))):
        plan = PruningPlan("llama", spec.identity, 4, 2, (layer, LayerPlan(1, *ALL)))
        model = prune(dense.config, state_arrays(dense), plan)
        out = save_checkpoint(model, tiny_processor(), tmp_path / str(place)).path
        with pytest.raises(RuntimeError, match="mismatched"):
            AutoModelForImageTextToText.from_pretrained(out)


def test_stock_loader_reads_dropped_layers_right(tmp_path: Path, unproved: None) -> None:
    from transformers import AutoModelForImageTextToText

    dense = tiny_model()
    spec = spec_of(dense)
    layers = (LayerPlan(0, *ALL), LayerPlan(3, *ALL))
    model = prune(
        dense.config, state_arrays(dense), PruningPlan("llama", spec.identity, 4, 2, layers)
    )
    out = save_checkpoint(model, tiny_processor(), tmp_path / "out").path
    stock = AutoModelForImageTextToText.from_pretrained(out)
    assert torch.equal(stock(**tiny_inputs()).logits, model(**tiny_inputs()).logits)


@pytest.mark.slow
def test_uniform_shapes_need_no_code(tmp_path: Path) -> None:
    """What stock classes can hold is saved for them: which units are kept differs by layer."""
    dense = tiny_model(gqa=False)
    spec = spec_of(dense)
    layers = tuple(LayerPlan(i, (i % 2, 3), tuple(range(i, i + 17))) for i in (0, 1, 3))
    plan = PruningPlan("llama", spec.identity, 4, 1, layers)
    assert spec.deployability(plan.shapes) == "stock"
    model = prune(dense.config, state_arrays(dense), plan)
    saved = save_checkpoint(model, tiny_processor(), tmp_path / "out")
    assert saved.proof.model_class == "LlavaForConditionalGeneration"
    config = json.loads((saved.path / "config.json").read_text())
    assert "auto_map" not in config
    assert config["text_config"]["num_attention_heads"] == 2
    assert config["text_config"]["head_dim"] == 8
    assert not (saved.path / CODE_FILE).exists()
    assert "trust_remote_code" not in (saved.path / "README.md").read_text()
    again = load_model(saved.path)
    assert again.spec == spec_of(model)


def test_a_dense_model_can_be_saved(tmp_path: Path, unproved: None) -> None:
    out = save_checkpoint(tiny_model(), tiny_processor(), tmp_path / "out").path
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert "autoprune" not in config["text_config"]


def test_output_dirs_are_checked_before_work(tmp_path: Path) -> None:
    assert check_output_dir(tmp_path / "new" / "deep") == tmp_path / "new" / "deep"
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("")
    with pytest.raises(AutoPruneError, match="not empty"):
        check_output_dir(full)
    with pytest.raises(AutoPruneError, match="is a file"):
        check_output_dir(full / "file")
    with pytest.raises(AutoPruneError, match="below the file"):
        check_output_dir(full / "file" / "out")
    with pytest.raises(AutoPruneError, match="not empty"):
        save_checkpoint(None, None, full)


def test_unwritable_output_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(AutoPruneError, match="no permission"):
        check_output_dir(tmp_path / "out")


@pytest.mark.parametrize("name", ["config.json", "../x", "model.safetensors", CODE_FILE])
def test_card_files_overwrite_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(AutoPruneError, match="rename it"):
        save_checkpoint(pruned_model(), tiny_processor(), tmp_path / "out", {name: "x"})


def test_wrong_record_is_refused(tmp_path: Path) -> None:
    model = pruned_model()
    model.config.text_config.autoprune["layers"][0][2] += 1
    with pytest.raises(AutoPruneError, match="records"):
        save_checkpoint(model, tiny_processor(), tmp_path / "out")
