"""What commands say of a search: one JSON object on stdout, or words for people."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cli_fakes
import pytest

from autoprune.cli.main import run
from autoprune.cli.result import comparison, rung_lines, verdicts
from autoprune.errors import StoppedError
from autoprune.search.knobs.space import load_space
from autoprune.search.listener import SearchListener
from autoprune.search.records.store import SearchStore, search_dir
from autoprune.search.settings import SearchSettings, make_settings
from autoprune.tracking.records.summary import RungRecord, SearchSummary

POINT_KEYS = {
    "trial",
    "params",
    "fraction",
    "axis",
    "recovery",
    "data_fraction",
    "backbone_removed",
    "retention",
    "retention_raw",
    "scores",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    cli_fakes.finished(tmp_path)
    return tmp_path


def test_front_json_is_one_object(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["front", "demo", "--json", "--home", str(home)]) == 0
    said = capfd.readouterr()
    front = json.loads(said.out)
    assert said.err == ""
    assert front["dense"]["params"] == cli_fakes.DENSE
    assert front["dense"]["scores"] == {"digits_read": 0.98}
    assert front["budget"]["params"] == 1_200_000
    assert [p["trial"] for p in front["points"]] == [7, 4]
    for point in front["points"]:
        assert set(point) >= POINT_KEYS
        assert set(point["retention"]) == {"mean", "low", "high", "seeds"}
    assert front["shrinkage"] is None  # what is no number is null


def test_front_json_all_adds_the_dominated(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["front", "demo", "--all", "--json", "--home", str(home)]) == 0
    assert [p["trial"] for p in json.loads(capfd.readouterr().out)["points"]] == [7, 9, 4]


def test_front_in_words(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["front", "demo", "--home", str(home)]) == 0
    said = capfd.readouterr().out
    assert "45.0%" in said
    assert "0.900" in said
    assert f"autoprune ui demo --home {home}" in said
    assert f"autoprune apply demo:4 --home {home} -o " in said


def test_ties_hypervolume_and_shrinkage_are_said() -> None:
    plain = cli_fakes.summary()
    tied = plain.points[-1].model_copy(
        update={"tied_with": (7, 1), "tied_smaller": (7,), "behind": True}
    )
    figures = {"hypervolume_low": 0.48, "hypervolume_high": 0.52, "shrinkage": 0.012}
    summary = plain.model_copy(update={"points": (plain.points[0], tied), **figures})
    said = "\n".join(verdicts(summary))
    assert "trial 4 (59.5%) is tied with 7, which is smaller, and has the lower mean" in said
    assert "Hypervolume 0.500 [0.480, 0.520]" in said
    assert "confirmed one +0.012, mean" in said  # of one point: no interval
    assert "at 95 % each: nothing is corrected" in said
    assert "tied" not in verdicts(plain)[0]


@pytest.mark.parametrize("command", ["front", "ui"])
def test_home_may_come_from_the_environment(
    command: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AUTOPRUNE_HOME", str(home))
    assert run([command, "dmo"]) == 2
    assert "did you mean 'demo'" in capfd.readouterr().err


def test_a_front_that_is_not_there_yet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli_fakes.started(tmp_path)
    assert run(["front", "demo", "--home", str(tmp_path)]) == 3
    said = capfd.readouterr().err
    assert "2 of 12 trials have ended" in said
    assert "autoprune search --resume demo" in said
    assert said.count("\n") == 1


def test_comparison_with_the_recommended_configurations() -> None:
    lines = comparison(cli_fakes.summary())
    assert "trial 4 (59.5%) is better: +0.050" in lines[1]
    assert "trial 4 (59.5%) is tied: +0.005" in lines[2]
    assert "paper-width-half (40.0%): no point is as small" in lines[3]


def noisy(
    settings: SearchSettings, listener: SearchListener | None = None, **more: object
) -> SearchSummary:
    """Stand in for a search whose libraries and child processes write to stdout."""
    print("a library prints")
    subprocess.run([sys.executable, "-c", "print('a child prints')"], check=True)
    assert listener is not None
    listener.on_stage("trials")
    cli_fakes.finished(settings.home, settings.name)
    return cli_fakes.summary(settings.name)


def test_search_json_is_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("autoprune.search.driver.run_search", noisy)
    assert run(["search", "--name", "demo", "--json", "--home", str(tmp_path)]) == 0
    said = capfd.readouterr()
    assert [p["trial"] for p in json.loads(said.out)["points"]] == [7, 4]
    for line in ("a library prints", "a child prints", "trials", "autoprune ui demo"):
        assert line in said.err


def test_search_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("autoprune.search.driver.run_search", noisy)
    assert run(["search", "--name", "demo", "--home", str(tmp_path)]) == 0
    said = capfd.readouterr().out
    assert "trials" in said
    assert "Against the recommended configurations" in said
    assert "autoprune apply demo:4" in said


def test_options_reach_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[SearchSettings] = []

    def record(settings: SearchSettings, listener: SearchListener, **_: object) -> SearchSummary:
        seen.append(settings)
        return noisy(settings, listener)

    monkeypatch.setattr("autoprune.search.driver.run_search", record)
    typed = (
        f"search --home {tmp_path} --budget 60% --budget 1.4M-params --tasks digits_read,digits_sum"
        " --tasks digits_count --trials 7 --seed 5 --no-keep --no-early-stopping --workers 3"
        " --gpus-per-trial 0.5 --data-fraction 0.2 --sampler random --space width"
    )
    assert run(typed.split()) == 0
    (found,) = seen
    assert found.budgets == ("60%", "1.4M-params")
    assert found.tasks == ("digits_read", "digits_sum", "digits_count")
    assert (found.trials, found.seed, found.workers, found.gpus_per_trial) == (7, 5, 3, 0.5)
    assert not found.keep
    assert not found.early_stopping
    assert (found.data_fraction, found.sampler, found.space) == (0.2, "random", "width")


def test_resume_keeps_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[SearchSettings] = []
    cli_fakes.started(tmp_path)

    def record(settings: SearchSettings, listener: SearchListener, **_: object) -> SearchSummary:
        seen.append(settings)
        return noisy(settings, listener)

    monkeypatch.setattr("autoprune.search.driver.run_search", record)
    assert run(["search", "--resume", "demo", "--home", str(tmp_path), "--workers", "4"]) == 0
    assert seen[0].trials == 12
    assert seen[0].workers == 4


def test_resume_uses_the_space_that_the_search_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "description: a\nrungs: [0, 1]\nknobs: {size: {low: 0, high: 1}, axis: width}\n"
    )
    asked = {"name": "own", "home": tmp_path, "space": str(file)}
    store = SearchStore(search_dir(tmp_path, "own"))
    store.open(make_settings(asked))
    began = store.space()
    seen: list[SearchSettings] = []

    def record(settings: SearchSettings, listener: SearchListener, **_: object) -> SearchSummary:
        store.check_same(settings)
        seen.append(settings)
        return cli_fakes.summary(settings.name)

    monkeypatch.setattr("autoprune.search.driver.run_search", record)
    resume = ["search", "--resume", "own", "--budget", "60%", "--home", str(tmp_path)]
    file.write_text(file.read_text().replace("width", "depth"))
    assert run(resume) == 0
    file.unlink()
    assert run(resume) == 0
    assert [load_space(settings.space) for settings in seen] == [began, began]


def test_a_stopped_search_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stop(settings: SearchSettings, listener: SearchListener, **_: object) -> SearchSummary:
        raise StoppedError("stopped; 'autoprune search --resume demo' goes on")

    monkeypatch.setattr("autoprune.search.driver.run_search", stop)
    assert run(["search", "--name", "demo", "--json", "--home", str(tmp_path)]) == 3
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.endswith("error: stopped; 'autoprune search --resume demo' goes on\n")


def test_rungs_say_how_well_they_ranked() -> None:
    rungs = (
        RungRecord(rung=0, share=0.0, trials=4, bins=1, stops=0.25),
        RungRecord(
            rung=1, share=0.33, trials=12, bins=2, correlation=0.5, low=-0.1, high=0.8, stops=0.31
        ),
    )
    summary = cli_fakes.summary()
    assert rung_lines(summary) == []
    lines = rung_lines(summary.model_copy(update={"rungs": rungs}))
    assert "4 trials are too few to say; as it began, it stops the last 25%" in lines[1]
    assert (
        "+0.50 [-0.10, +0.80] over 12 trials in 2 bins; by that, it stops the last 31%" in lines[2]
    )
    off = tuple(rung.model_copy(update={"stops": 0.0}) for rung in rungs)
    for line in rung_lines(summary.model_copy(update={"rungs": off}))[1:]:
        assert line.endswith("; it stops none")
