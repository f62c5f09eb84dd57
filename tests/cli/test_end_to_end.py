"""The whole road on the embedded model: search, front, apply, rebuild, evaluate, resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autoprune.cli.main import run
from autoprune.pipeline.prepare import Preparation
from autoprune.search import problem
from autoprune.search.settings import SearchSettings

SEARCH = (
    "search --budget 60% --name tiny --trials 4 --seed 3 --search-samples 32 --confirm-samples 32"
    " --max-recovery-samples 64 --confirm-seeds 2 --confirm-points 2 --json"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def less_to_prepare(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    full = problem.preparation

    def less(settings: SearchSettings) -> Preparation:
        return replace(full(settings), train_images=96, calibration_images=64)

    monkeypatch.setattr(problem, "preparation", less)
    monkeypatch.setenv("AUTOPRUNE_HOME", str(home))


@pytest.mark.slow
def test_from_search_to_checkpoint(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(SEARCH.split()) == 0
    said = capfd.readouterr()
    front = json.loads(said.out)
    assert front["dense"]["params"] > front["budget"]["params"]
    assert front["points"]
    for point in front["points"]:
        assert point["params"] <= front["budget"]["params"]
        assert point["retention"]["low"] <= point["retention"]["mean"] <= point["retention"]["high"]
        assert point["retention"]["seeds"] == 2
    assert "trial 0 complete" in said.err
    assert "autoprune ui tiny" in said.err
    assert "#/experiments/" in said.err  # links into the MLflow UI

    # The same command shows the finished front at once.
    assert run(SEARCH.split()) == 0
    assert json.loads(capfd.readouterr().out)["points"] == front["points"]
    assert run(["front", "tiny", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["points"] == front["points"]

    # A member of the front becomes a checkpoint, and one that is made again is the same.
    trial = front["points"][-1]["trial"]
    assert run(["apply", f"tiny:{trial}", "-o", str(tmp_path / "kept")]) == 0
    assert "reloaded in a fresh process" in capfd.readouterr().out
    card = (tmp_path / "kept" / "README.md").read_text()
    assert "trust_remote_code=True" in card
    assert "## Licences" in card
    scores = json.loads((tmp_path / "kept" / "scores.json").read_text())
    assert scores["params"] == front["points"][-1]["params"]
    assert scores["confirmed"]["retention"] == front["points"][-1]["retention"]
    source = str(tmp_path / "kept")
    assert run(["apply", source, "-o", str(tmp_path / "again"), "--rebuild"]) == 0
    again = capfd.readouterr().out
    assert "rebuilt retains" in again
    assert "largest difference of a task's score is 0.0000, of a weight 0.0e+00" in again

    # Picked and written again it is a version of a registered model.
    assert run(["pick", "tiny", "--json"]) == 0
    picked = json.loads(capfd.readouterr().out)
    assert picked["winner"]["trial"] in {p["trial"] for p in front["points"]}
    registered = str(tmp_path / "registered")
    command = ["export", picked["winner"]["name"], "-o", registered, "--register", "mine"]
    assert run([*command, "--json"]) == 0
    exported = json.loads(capfd.readouterr().out)
    assert exported["params"] == picked["winner"]["params"]
    assert (exported["registered"]["uri"], exported["registered"]["version"]) == (
        "models:/mine@champion",
        1,
    )

    # Scored on its own it retains what the search said.
    assert run(["evaluate", source, "--samples", "32", "--json"]) == 0
    scored = json.loads(capfd.readouterr().out)
    assert scored["dense"]["model"] == "embedded"
    assert scored["retention"]["mean"] == pytest.approx(scores["retention"])
    assert scored["scores"] == pytest.approx(scores["scores"])

    # Nothing is overwritten.
    assert run(["apply", f"tiny:{trial}", "-o", source]) == 2
    assert "is not empty" in capfd.readouterr().err


QUANTISED = (
    "search --budget 75% --name bits --quantize none,int8 --quantize int4 --trials 6 --seed 5"
    " --no-early-stopping --search-samples 24 --confirm-samples 24 --max-recovery-samples 48"
    " --confirm-seeds 1 --confirm-points 6 --json"
)


@pytest.mark.slow
def test_pruning_and_bits_stand_on_one_front(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([*QUANTISED.split(), "--dry-run"]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["objective"] == "bytes"
    spans = plan["bytes"]["by_precision"]
    assert list(spans) == ["float32", "int8", "int4"]
    assert run(QUANTISED.split()) == 0
    said = capfd.readouterr()
    front = json.loads(said.out)
    assert "in int8" in said.err or "in int4" in said.err
    assert front["objective"] == "bytes"
    assert front["dense"]["bytes"] == plan["bytes"]["dense"] == 4 * front["dense"]["params"]
    everything = json.loads(_said(capfd, ["front", "bits", "--all", "--json"]))["points"]
    assert len({point["precision"] for point in everything}) > 1
    for point in everything:
        span = spans[point["precision"]]
        assert span["smallest"] * 0.98 <= point["bytes"] <= span["largest"]
        assert point["params"] <= front["budget"]["params"]
        assert point["bytes_fraction"] == point["bytes"] / front["dense"]["bytes"]
    sizes = [point["bytes"] for point in front["points"]]
    assert sizes == sorted(sizes)
    assert "bits" in _said(capfd, ["front", "bits"])

    # A quantised point is written as it was scored, and loads by stock transformers elsewhere.
    chosen = next(point for point in everything if point["precision"] != "float32")
    source = str(tmp_path / "small")
    said_apply = _said(capfd, ["apply", f"bits:{chosen['trial']}", "-o", source])
    assert f"in {chosen['precision']}" in said_apply
    scores = json.loads((tmp_path / "small" / "scores.json").read_text())
    assert (scores["bytes"], scores["precision"]) == (chosen["bytes"], chosen["precision"])
    weights = (tmp_path / "small" / "model.safetensors").stat().st_size
    assert chosen["bytes"] < weights < chosen["bytes"] + 120_000  # names and shapes beside them
    scored = json.loads(_said(capfd, ["evaluate", source, "--samples", "24", "--json"]))
    assert scored["scores"] == pytest.approx(scores["scores"])
    assert scored["retention"]["mean"] == pytest.approx(scores["retention"])

    # Made again it is the same.
    again = _said(capfd, ["apply", source, "-o", str(tmp_path / "again"), "--rebuild"])
    assert "largest difference of a task's score is 0.0000, of a weight 0.0e+00" in again
    assert "quantised already" in _failed(capfd, f"search --model {source} --dry-run")


def _said(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert run(arguments) == 0
    return capfd.readouterr().out


def _failed(capfd: pytest.CaptureFixture[str], line: str) -> str:
    assert run(line.split()) == 2
    return capfd.readouterr().err


@pytest.mark.slow
def test_dry_run_starts_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOPRUNE_HOME", str(tmp_path / "new"))
    assert run([*SEARCH.split(), "--dry-run"]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["state"] == "new"
    assert plan["smallest"] < plan["budget"]["params"] < plan["dense"]["params"]
    assert plan["forecast"]["seconds"] > 0
    assert plan["settings"]["trials"] == 4
    assert run([*SEARCH.replace("--json", "").split(), "--dry-run"]) == 0
    said = capfd.readouterr().out
    assert "forecast" in said
    assert "60.0% of the whole model" in said
    assert not (tmp_path / "new").exists()
