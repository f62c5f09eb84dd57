"""Peak memory of an importance pass, measured on a model of real width, against its forecast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.shapes import shape_config

from autoprune.models.memory import peak_memory
from autoprune.models.shape import spec_of
from autoprune.pruning.footprint import (
    HEADROOM,
    gradient_bytes,
    importance_peak,
    row_bytes,
    rows_within,
    surgery_peak,
    weight_bytes,
)

SCRIPT = Path(__file__).with_name("footprint_script.py")


def run(*given: object) -> dict[str, int]:
    paths = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
    # What is freed goes back to the system at once: tensors are measured, not malloc's slack.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, given)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_peak_of_the_pass() -> None:
    """400 MB in bfloat16, hidden size 2048: the model, and one layer's activations."""
    found = run("pass", "layer by layer", 64, 1)
    assert found["peak"] > found["weights"] > 380 * 2**20
    assert found["peak"] <= HEADROOM * found["weights"] + found["gradients"]
    assert found["peak"] == pytest.approx(found["forecast"], rel=0.1)


@pytest.mark.slow
def test_peak_follows_the_forecast_and_one_graph_does_not() -> None:
    long = run("pass", "layer by layer", 256, 4)
    assert 0.7 * long["forecast"] < long["peak"] < 1.1 * long["forecast"]
    assert run("pass", "one graph", 256, 4)["peak"] > 1.2 * long["peak"]


def test_peak_of_loading_and_of_surgery(tmp_path: Path) -> None:
    """Pages of the files count while they are mapped, which is one tensor at a time."""
    run("save", tmp_path)
    found = run("surgery", tmp_path)
    largest = 2 * 2048 * 5504
    assert found["weights"] > 380 * 2**20
    assert found["weights"] < found["load"] < found["weights"] + 2 * largest
    assert found["kept"] < 0.55 * found["weights"]
    assert found["kept"] < found["surgery"] < found["kept"] + 2 * largest
    assert found["surgery"] == pytest.approx(found["forecast"], rel=0.1)


def test_a_real_model_stays_within_its_headroom() -> None:
    spec = spec_of(shape_config("llava-1.5-7b"))
    weights = weight_bytes(spec, 2)
    assert weights == 2 * spec.total_params
    rows = rows_within(spec, 2, tokens=700, most=64)
    assert 1 < rows < 64
    assert importance_peak(spec, 2, 700, rows) <= HEADROOM * weights
    assert importance_peak(spec, 2, 700, rows + 1) > HEADROOM * weights
    assert rows_within(spec, 2, tokens=700, most=2) == 2
    assert rows_within(spec, 2, tokens=10**6, most=8) == 1
    assert gradient_bytes(spec) < 0.02 * weights
    assert row_bytes(spec, 2, 1400) == 2 * row_bytes(spec, 2, 700)
    half = spec.params_of(spec.layers[::2])
    assert 2 * half < surgery_peak(spec, half, 2, 32064) < 0.6 * weights


def test_the_peak_is_that_of_the_work() -> None:
    with peak_memory("cpu") as before:
        pass
    with peak_memory("cpu") as peak:
        block = bytearray(200 * 2**20)
        del block
    assert 190 * 2**20 < peak.bytes - before.bytes < 220 * 2**20
