"""A dry run of a model that is there as nothing but its ``config.json``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from support.models import tiny_llava_config, tiny_processor
from support.shapes import PARAMS, shape_config

from autoprune.cli.main import run
from autoprune.zoo.model import build_processor

SECONDS = 10.0
"""Bound on a plan of a model of any size; a few seconds on an idle machine."""


def outlined(folder: Path, config: object) -> str:
    config.save_pretrained(folder / "model")
    return f"search --model {folder / 'model'} --home {folder / 'home'}"


@pytest.mark.parametrize("name", PARAMS)
def test_sizes_are_known_from_the_configuration(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    params = PARAMS[name]
    command = outlined(tmp_path, shape_config(name)).split()
    started = time.perf_counter()
    assert run([*command, "--budget", "60%", "--dry-run", "--json"]) == 0
    assert time.perf_counter() - started < SECONDS
    plan = json.loads(capfd.readouterr().out)
    assert plan["dense"]["params"] == params
    assert plan["dense"]["bytes"] == 2 * params
    assert plan["dense"]["dtype"] == "bfloat16"
    assert plan["dense"]["lacks"] == ["weights", "tokenizer", "processor"]
    assert plan["budget"]["params"] == int(0.6 * params)
    assert 0 < plan["reachable"]["least"] < plan["smallest"] < plan["reachable"]["most"]
    assert plan["reachable"]["most"] == params
    assert plan["forecast"] is None
    weights = plan["dense"]["bytes"]
    assert weights < plan["memory"]["importance"] <= max(1.3 * weights, weights + 2**30)
    assert plan["memory"]["surgery"] < 0.75 * weights
    assert [line.split(":")[0] for line in plan["unknown"]] == [
        "time and disk",
        "whether a search can run",
    ]


def test_the_table_says_what_is_open(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = outlined(tmp_path, shape_config("llava-1.5-7b")).split()
    assert run([*command, "--dry-run"]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "7.06B parameters, 13.2 GiB in bfloat16" in said
    assert "can be reached" in said
    assert "to measure importance" in said
    assert "not forecast" in said
    assert "without the tokenizer and processor" in said
    assert not (tmp_path / "home").exists()
    # A budget that cannot be reached is refused as it would be with weights.
    assert run([*command, "--budget", "1M-params", "--dry-run"]) == 2
    assert "reaches" in capfd.readouterr().err


def test_with_a_processor_time_is_forecast(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = outlined(tmp_path, tiny_llava_config()).split()
    tiny_processor().save_pretrained(tmp_path / "model")
    assert run([*command, "--budget", "80%", "--dry-run", "--json"]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["dense"]["lacks"] == ["weights"]
    assert plan["forecast"]["seconds"] > 0
    assert [line.split(":")[0] for line in plan["unknown"]] == ["whether a search can run"]


def test_a_search_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = outlined(tmp_path, shape_config("llava-1.5-7b")).split()
    assert run(command) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "has no weights" in said
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
def test_time_of_a_real_model_is_forecast_soon(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is timed of a layer is a part of a batch, whatever its width."""
    config, processor = shape_config("llava-1.5-7b"), build_processor()
    config.image_token_id = processor.image_token_id
    command = outlined(tmp_path, config).split()
    processor.save_pretrained(tmp_path / "model")
    started = time.perf_counter()
    assert run([*command, "--budget", "60%", "--dry-run", "--json"]) == 0
    assert time.perf_counter() - started < 60
    plan = json.loads(capfd.readouterr().out)
    assert plan["forecast"]["seconds"] > 3600
    assert plan["memory"]["tokens"] == plan["forecast"]["tokens"] < 640


def test_the_reach_is_that_of_the_class_and_the_multiple(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the table says can be reached is what a budget is refused by."""
    command = outlined(tmp_path, shape_config("qwen2.5-vl-7b")).split()
    more = ["--deployable", "stock", "--multiple", "512"]
    assert run([*command, *more, "--dry-run", "--json"]) == 0
    least = json.loads(capfd.readouterr().out)["reachable"]["least"]
    assert run([*command, *more, "--budget", f"{least}-params", "--dry-run"]) == 0
    capfd.readouterr()
    assert run([*command, *more, "--budget", f"{least - 1}-params", "--dry-run"]) == 2
    assert f"{least:,}" in capfd.readouterr().err
