"""The whole road for models that are run whole, and the dry run for every wrapper."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.families import CASES
from support.trained import trained_checkpoint

from autoprune.cli.main import run
from autoprune.models.loading import load_model
from autoprune.pipeline.prepare import Preparation
from autoprune.search import problem
from autoprune.search.settings import SearchSettings
from autoprune.zoo.questions import words

SEARCH = (
    "search --budget 80% --trials 2 --seed 3 --search-samples 12 --confirm-samples 12"
    " --max-recovery-samples 32 --confirm-seeds 2 --confirm-points 2 --json"
)
ONE_A_WRAPPER = list({case.wrapper: name for name, case in CASES.items()}.values())


@pytest.fixture
def less_to_prepare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few images; and no chance level, which models that cannot see do not get above."""
    full = problem.preparation

    def less(settings: SearchSettings) -> Preparation:
        wanted = full(settings)
        tasks = tuple(replace(task, chance=0.0) for task in wanted.tasks)
        return replace(wanted, tasks=tasks, train_images=48, calibration_images=16)

    monkeypatch.setattr(problem, "preparation", less)


@pytest.mark.slow
@pytest.mark.usefixtures("less_to_prepare")
@pytest.mark.parametrize("name", ["qwen2_5_vl-qwen2_5_vl_text", "idefics3-llama"])
def test_from_search_to_checkpoint(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = trained_checkpoint(name, tmp_path / "model")
    home = ["--home", str(tmp_path / "home")]
    assert run([*SEARCH.split(), "--model", str(model), "--name", "tiny", *home]) == 0
    front = json.loads(capfd.readouterr().out)
    assert front["points"]
    assert all(p["params"] <= front["budget"]["params"] for p in front["points"])
    point = f"tiny:{front['points'][0]['trial']}"
    out = tmp_path / "smaller"
    assert run(["apply", point, "-o", str(out), *home]) == 0
    capfd.readouterr()
    assert run(["evaluate", str(out), "--samples", "8", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["params"] == front["points"][0]["params"]
    smaller = load_model(out)
    with torch.no_grad():
        assert torch.isfinite(smaller.model(**CASES[name].inputs()).logits).any()


@pytest.mark.parametrize("name", ONE_A_WRAPPER)
def test_dry_run_says_what_a_search_takes(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = CASES[name].saved(tmp_path / "model", vocab_size=128)
    home = ["--home", str(tmp_path / "home")]
    assert run(["search", "--model", str(model), "--budget", "90%", "--dry-run", *home]) == 0
    assert not (tmp_path / "home" / "searches").exists()
    assert capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("less_to_prepare")
def test_a_model_at_chance_is_refused_before_any_trial(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    known = ["user:", "assistant:", *words()]
    model = CASES["llama"].saved(tmp_path / "model", known, vocab_size=192)
    home = ["--home", str(tmp_path / "home")]
    assert run([*SEARCH.split(), "--model", str(model), "--name", "blind", *home]) == 2
    said = capfd.readouterr().err
    assert "chance" in said
    assert "without their images" in said
    assert "scoring the dense model" in said
    assert "importance" not in said
    assert "trial 0" not in said
