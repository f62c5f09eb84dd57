"""Decode steps of real shapes, timed here; and the profile of this machine as a device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.families import CASES

from autoprune.cli import main as cli
from autoprune.cost import profile as rates
from autoprune.cost import timing
from autoprune.cost.deployment import deployment_of
from autoprune.cost.devices import find_device
from autoprune.cost.machine import Machine, this_machine, titled
from autoprune.cost.timing import DecodeSteps, measure_latency, times, timing_seconds
from autoprune.errors import AutoPruneError
from autoprune.models.precision import precision_of
from autoprune.models.shape import LayerShape, spec_of

TEXTS = ("llama", "qwen2", "qwen3", "mistral", "phi", "phi3", "gemma3_text", "qwen2_vl_text")


@pytest.mark.parametrize("text", TEXTS)
def test_steps_of_any_backbone_with_uneven_layers(text: str) -> None:
    case = next(c for c in CASES.values() if c.text == text)
    config = case.config()
    spec = spec_of(config)
    kept = [
        spec.layers[0],
        LayerShape(0, 0, 8),
        LayerShape(0, 0, 0),
        LayerShape(spec.q_per_group, 1, 0),
    ]
    prompt = deployment_of(config, 40, 0)
    steps = DecodeSteps(config, spec, kept, prompt, "float32", torch.device("cpu"))
    assert len(steps.model.layers) == 3
    logits = steps.step()
    assert logits.shape[0] == 1
    assert torch.isfinite(logits).all()
    # A step overwrites its own place: the next one takes as long.
    assert torch.equal(logits, steps.step())
    found = measure_latency(config, spec, kept, prompt, repeats=3)
    assert found.kind == "measured"
    assert found.low is not None
    assert 0 < found.low <= found.seconds


def test_a_profile_is_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(rates, "BEYOND", 2**22)
    out = tmp_path / "box.json"
    asked = ["profile", "--name", "box", "-o", str(out), "--home", str(tmp_path / "home"), "--json"]
    assert cli.run(asked) == 0
    said = json.loads(capsys.readouterr().out)
    device = find_device("box", tmp_path / "home")
    assert device == find_device(str(out))
    assert said["bandwidth"] == device.bandwidth > 1e8
    assert device.measured
    assert set(device.compute) == {"float32", "float16", "bfloat16"}
    assert device.layer_seconds > 0
    assert 0 < device.memory < device.installed
    assert cli.run(["devices", "box", "--home", str(tmp_path / "home")]) == 0
    assert "measured by autoprune profile" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "asked", [["--name", "a/b"], ["--name", "l4"], ["-o", "/proc/self/status/x.json"]]
)
def test_profiles_that_cannot_be_kept(asked: list[str], tmp_path: Path, capsys) -> None:
    assert cli.run(["profile", *asked, "--home", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["bfloat16", "int8", "int4"])
def test_any_precision_is_timed(precision: str) -> None:
    config = next(case for case in CASES.values() if case.text == "llama").config()
    spec = spec_of(config)
    found = measure_latency(config, spec, None, deployment_of(config, 40, 0), precision, repeats=3)
    assert (found.kind, found.device) == ("measured", "here")
    assert found.dtype == precision_of(precision).dtype
    assert found.seconds > 0


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = next(case for case in CASES.values() if case.text == "llama").config()
    spec, prompt = spec_of(config), deployment_of(config, 40, 0)
    monkeypatch.setattr(Machine, "free", property(lambda self: 1000))
    with pytest.raises(AutoPruneError, match=r"cannot be timed on this machine, where .* are free"):
        measure_latency(config, spec, None, prompt)


def test_long_steps_are_timed_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "thread_time", lambda: float(next(clock)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    cpu = torch.device("cpu")
    assert len(times(lambda: None, cpu, 40)) == 40
    assert len(times(lambda: None, cpu, 40, enough=20.0)) == 21
    assert len(times(lambda: None, cpu, 40, enough=3.0)) == timing.FEWEST


def test_this_machine_leaves_some_memory_to_its_system() -> None:
    machine = this_machine()
    assert 0 < machine.memory < machine.installed
    assert 0 < machine.free <= machine.installed
    assert titled(machine, 1).startswith(machine.title)


@pytest.mark.parametrize(
    ("latencies", "seconds"),
    [
        ([], 0.0),
        ([0.001, 0.002], 3 * 17 * 0.003),
        ([1.0], 3 * 8.0),  # six steps and two before them
        ([10.0, 10.0], 160.0),  # over a minute: no second round
    ],
)
def test_what_timing_takes_is_known_before(latencies: list[float], seconds: float) -> None:
    assert timing_seconds(latencies) == pytest.approx(seconds)
