"""Each thing that can be wrong with an original checkpoint: one line, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.originals import TOWER, TOWER_NAME, read_tensors, write_bunny, write_internvl

from autoprune.errors import AutoPruneError
from autoprune.models.convert import bunny, run
from autoprune.models.convert.run import convert_checkpoint
from autoprune.models.loading import inspect_model


@pytest.fixture(autouse=True)
def tiny_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bunny.TOWERS, TOWER_NAME, TOWER)


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may come as far as the fresh process."""
    monkeypatch.setattr(run, "prove_load", lambda directory, model_class, digests: None)


def spoil_config(**changes: Any) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        path = directory / "config.json"
        config = json.loads(path.read_text())
        for name, value in changes.items():
            place = config
            *outer, last = name.split("__")
            for part in outer:
                place = place[part]
            place[last] = value
            if value is None:
                del place[last]
        path.write_text(json.dumps(config))

    return spoil


def spoil_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        tensors = read_tensors(directory)
        change(tensors)
        for file in directory.glob("model*"):
            file.unlink()
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})

    return spoil


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def generation(**fields: Any) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        (directory / "generation_config.json").write_text(json.dumps(fields))

    return spoil


def truncate(directory: Path) -> None:
    path = directory / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(directory: Path) -> None:
    for file in directory.glob("model*"):
        file.unlink()
    (directory / "pytorch_model.bin").write_bytes(b"")


BAD = [
    (
        write_bunny,
        spoil_config(vocab_size=290),
        r"token \d+ where the model has 290 tokens: copy the tok",
    ),
    (
        write_bunny,
        spoil_config(model_type="bunny-stablelm"),
        r"unknown layout 'bunny-stablelm': conv",
    ),
    (write_bunny, spoil_config(model_type="llava"), r"authors' layout.*llava-hf/llava-1\.5-7b-hf"),
    (
        write_bunny,
        spoil_config(model_type="phi"),
        r"already in transformers' form.*use it as it is",
    ),
    (write_bunny, remove("model-00002-of-00002.safetensors"), r"lacks model-00002.*missing shard"),
    (write_bunny, truncate, r"model-00002-of-00002\.safetensors is truncated"),
    (write_bunny, pickled, r"pickled weights only"),
    (write_bunny, remove("config.json"), r"no config\.json"),
    (write_bunny, spoil_config(hidden_size=None), r"lacks hidden_size: use the config"),
    (
        write_bunny,
        spoil_config(intermediate_size=64),
        r"mlp\.fc1\.bias has shape \[56\] where .* asks for \[64\]",
    ),
    (write_bunny, spoil_config(num_hidden_layers=2), r"holds model\.layers\.2\..*no place"),
    (write_bunny, spoil_config(num_hidden_layers=4), r"holds no tensor that becomes .*layers\.3\."),
    (write_bunny, spoil_config(hidden_size=42), r"config\.json"),
    (
        write_bunny,
        spoil_config(mm_projector_type="ldp"),
        r"mm_projector_type = 'ldp'.*'mlp2x_gelu'",
    ),
    (write_bunny, spoil_config(use_s2=True), r"use_s2 = True"),
    (
        write_bunny,
        spoil_config(mm_vision_tower="google/eva"),
        r"vision tower 'google/eva': only .*sigl",
    ),
    (write_bunny, spoil_config(mm_hidden_size=24), r"mm_hidden_size = 24 where .* has 16"),
    (write_bunny, remove("tokenizer.json"), r"has no tokenizer: put its"),
    (
        write_bunny,
        spoil_tensors(lambda t: t.update(extra=torch.ones(2))),
        r"holds extra, for which",
    ),
    (write_bunny, spoil_tensors(lambda t: t.pop("lm_head.weight")), r"becomes lm_head\.weight"),
    (
        write_bunny,
        spoil_tensors(lambda t: t.update({"lm_head.weight": t["lm_head.weight"].to(torch.int8)})),
        r"lm_head\.weight in .* is I8",
    ),
    (
        write_bunny,
        spoil_tensors(lambda t: [t.pop(k) for k in list(t) if ".layers.1." in k and "vision" in k]),
        r"holds 1 layers of google/tiny-siglip, which has 3",
    ),
    (
        write_bunny,
        spoil_tensors(lambda t: [t.pop(k) for k in list(t) if "vision_tower" in k]),
        r"holds no vision tower",
    ),
    (write_bunny, spoil_config(hidden_act="x"), r"config\.json is not valid \('x'\): use the file"),
    (
        write_bunny,
        spoil_config(hidden_size="x"),
        r"not valid \(.*hidden_size.* got str",
    ),
    (write_bunny, spoil_config(num_attention_heads=0), r"config\.json is not valid"),
    (write_bunny, generation(min_p=7), r"generation_config\.json is not valid"),
    (write_internvl, spoil_config(ps_version="v1"), r"ps_version = 'v1', which transposes"),
    (write_internvl, spoil_config(ps_version=None), r"ps_version = 'v1'"),
    (write_internvl, spoil_config(select_layer=-4), r"select_layer = -4"),
    (write_internvl, spoil_config(use_thumbnail=False), r"use_thumbnail = False"),
    (write_internvl, spoil_config(use_llm_lora=16), r"use_llm_lora = 16"),
    (
        write_internvl,
        spoil_config(llm_config__model_type="internlm2"),
        r"'internlm2', another text",
    ),
    (write_internvl, spoil_config(llm_config=None), r"llm_config"),
    (
        write_internvl,
        spoil_config(llm_config__rope_scaling={"type": "linear"}),
        r"types su, longrope",
    ),
    (
        write_internvl,
        spoil_config(force_image_size=448),
        r"force_image_size = 448 and vision_config",
    ),
    (write_internvl, spoil_config(downsample_ratio=0.25), r"mlp1"),
    (write_internvl, spoil_config(vision_config__num_attention_heads=5), r"config\.json"),
    (
        write_internvl,
        spoil_tensors(lambda t: t.update({"mlp1.0.bias": torch.ones(95)})),
        r"mlp1\.0\.bias has shape \[95\] where .* asks for \[96\]",
    ),
    (
        write_internvl,
        spoil_tensors(
            lambda t: t.update({"vision_model.encoder.layers.0.attn.qkv.bias": torch.ones(71)})
        ),
        r"\[71\], which does not split into 3",
    ),
]


@pytest.mark.parametrize(("write", "spoil", "says"), BAD, ids=[row[2][:40] for row in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    write: Callable[[Path], Path],
    spoil: Callable[[Path], None],
    says: str,
    unproved: None,
) -> None:
    source = write(tmp_path / "source")
    spoil(source)
    with pytest.raises(AutoPruneError, match=says) as caught:
        convert_checkpoint(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_any_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_bunny(tmp_path / "source")
    for failure in (KeyboardInterrupt(), OSError(28, "No space left on device")):

        def fail(directory: Path, *rest: Any, failure: BaseException = failure) -> None:
            assert (directory / "model.safetensors").is_file()
            raise failure

        monkeypatch.setattr(run, "prove_load", fail)
        with pytest.raises(AutoPruneError if isinstance(failure, OSError) else type(failure)):
            convert_checkpoint(source, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_small_disk_is_noticed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_bunny(tmp_path / "source")
    small = SimpleNamespace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: small)
    with pytest.raises(AutoPruneError, match=r"needs 0\.0 GiB where 0\.0 GiB are free"):
        convert_checkpoint(source, tmp_path / "deep" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_full_output_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("")
    with pytest.raises(AutoPruneError, match="not empty"):
        convert_checkpoint(tmp_path / "nothing-there", tmp_path / "out")


def test_an_original_layout_is_sent_to_convert(tmp_path: Path) -> None:
    source = write_bunny(tmp_path / "source")
    with pytest.raises(AutoPruneError, match=r"'bunny-phi' .*: autoprune convert .*source -o DIR"):
        inspect_model(source)
