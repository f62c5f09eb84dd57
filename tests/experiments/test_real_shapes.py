"""The script for GPUs, as far as it can be held to its word without one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import CASES, build_model
from torch.utils._python_dispatch import TorchDispatchMode

from autoprune.models.shape import LayerShape, spec_of

FOLDER = Path(__file__).parents[2] / "experiments" / "real_shapes"
SHAPES = ("llava-llama", "llava-phi", "internvl-phi3", "qwen2_5_vl-qwen2_5_vl_text")


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("decode", "table"):
        monkeypatch.delitem(sys.modules, name, raising=False)


class NoWaiting(TorchDispatchMode):
    """Refuses what would make a GPU's stream wait for the CPU, and so cannot be captured."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for waits in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal"):
            assert not func._schema.name.removeprefix("aten::").startswith(waits), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_the_step_is_the_models_and_can_be_captured(name: str) -> None:
    from decode import Decoder

    model = build_model(CASES[name].config())
    decoder = Decoder(model, 8, 3, torch.device("cpu"))
    decoder.ids %= 50
    decoder._fill()  # the cache is laid out by the first call
    with NoWaiting():
        filled = decoder._fill()
        stepped = decoder._step()
    ids = torch.cat([decoder.ids, decoder.token], dim=1)
    states = model.get_decoder()(
        inputs_embeds=model.get_input_embeddings()(ids), use_cache=False
    ).last_hidden_state
    wanted = model.get_output_embeddings()(states).argmax(-1)
    assert (filled, stepped) == (wanted[:, 7:8], wanted[:, 8:9])
    assert len(decoder.prefill(2)) == 2
    assert all(time > 0 for time in decoder.decode(2))
    assert len(decoder.yardstick_ms) == 2


def test_waiting_is_seen() -> None:
    """Control of the test above."""
    with pytest.raises(AssertionError), NoWaiting():
        float(torch.ones(1))


def test_the_forecast_knows_the_fixed_part_and_the_bytes() -> None:
    from decode import bytes_read
    from table import check, predicted

    spec = spec_of(CASES["llava-llama"].config())
    dense = bytes_read(spec, spec.layers, 10, 2)
    assert dense == 2 * (spec.backbone_params + sum(2 * s.kv_heads * 8 * 10 for s in spec.layers))
    assert bytes_read(spec, [LayerShape(0, 0, 4)], 10, 2) < dense / len(spec.layers)

    def row(case: str, layers: int, read: int, off: float = 0.0) -> dict[str, Any]:
        time = 1.0 + 0.5 * layers + 1e-3 * read
        row = {"model": "m", "step": "latency", "case": case, "yardstick_ms": []}
        return {**row, "layers": layers, "bytes_read": read, "decode_ms": [time * (1 + off)]}

    rows = [
        row("dense", 8, 8000),
        row("thin", 8, 80),
        row("empty", 0, 0),
        row("layer-30%", 6, 6000, 0.05),
        row("width-30%", 8, 6000, 0.2),
    ]
    ahead = predicted({r["case"]: r for r in rows})
    assert ahead["layer-30%"] == pytest.approx(1 + 3 + 6)
    assert ahead["width-30%"] == pytest.approx(1 + 4 + 6)
    said = check(rows)
    assert [line.split(":")[0] for line in said] == ["met", "NOT MET"]
    assert "+20%" in said[1]
