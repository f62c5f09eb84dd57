"""The lines that a report gives to type: they are taken, and mean what was done."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from deploy.report.report_fakes import make_store

from autoprune.cli.main import run
from autoprune.deploy.report.commands import commands_of, search_command
from autoprune.search.settings import SearchSettings, make_settings

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "budgets": {"budgets": ("60%", "1.2M-params"), "min_size": "30%"},
    "bits": {"quantize": ("none", "int8"), "model": "a dir/with 'quotes'"},
    "switches": {"early_stopping": False, "keep": False, "warm_baselines": False},
    "stock": {"deployable": "stock", "trials": 7, "rung_share": 0.123456789},
    "walk": {"sampler": "grid", "space": "paper"},
    "warm": {"warm_start": ("one", "two"), "tasks": ("digits_read",), "patience": 0.5},
    "latency": {
        "device": "jetson-orin-nano-8gb",
        "objective": "memory",
        "timed": True,
        "budgets": ("60%", "6GiB-memory", "40ms-latency"),
        "context": 2048,
    },
    "floors": {"floors": ("digits_read=0.9", "counting=0.5"), "capabilities": ("digits_sum=sums",)},
    "numbers": {"max_hours": 1.5, "seed": 3, "gpus_per_trial": 0.25, "confirm_points": 2},
}


@pytest.mark.parametrize("case", SETTINGS)
def test_the_search_command_means_the_same_search(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings({"name": "demo", "home": tmp_path, **SETTINGS[case]})
    line = search_command(settings, f"demo --home {shlex.quote(str(tmp_path))}")
    seen: list[SearchSettings] = []
    monkeypatch.setattr("autoprune.cli.plan.print_plan", lambda found, _: seen.append(found))
    words = shlex.split(line)
    assert words[:2] == ["autoprune", "search"]
    assert run([*words[1:], "--dry-run"]) == 0
    assert seen == [settings]


def test_data_of_the_user_is_said(tmp_path: Path) -> None:
    own = {"data": ("a.json", "b dir=2"), "images": "pictures", "max_length": 512}
    settings = make_settings({"name": "demo", "home": tmp_path})
    read = settings.model_copy(update={**own, "data_identity": "0123"})
    line = search_command(read, "demo")
    assert "--data a.json --data 'b dir=2' --images pictures --max-length 512" in line
    assert "0123" not in line


def test_nothing_is_said_twice(tmp_path: Path) -> None:
    settings = make_settings({"name": "demo", "home": tmp_path})
    assert search_command(settings, "demo") == "autoprune search --budget 60% --name demo"


def test_commands_fit_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPRUNE_HOME", str(tmp_path))
    store = make_store(tmp_path)
    summary = store.summary()
    assert summary is not None
    kept = store.directory / "kept" / f"{summary.front[0].trial:04d}" / "weights.npz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    done = [c.line for c in commands_of(store.settings(), store, summary, "finished")]
    for point in summary.front:
        rebuilt = "" if point is summary.front[0] else " --rebuild"
        assert f"autoprune export demo:{point.trial}{rebuilt} -o smaller-model" in done
    assert not any("--resume" in line for line in done)
    so_far = [c.line for c in commands_of(store.settings(), store, None, "interrupted")]
    assert "autoprune search --resume demo" in so_far
    assert "autoprune report demo" in so_far
    assert not any("export" in line for line in so_far)
