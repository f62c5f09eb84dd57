"""What a dry run says in words and in JSON is one plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoprune.cli.main import run


@pytest.mark.parametrize(
    ("typed", "parts", "said"),
    [
        ("", (6, 4, 3), "up to 6 points and 4 baselines, 3 seeds each: 30 runs at most"),
        (
            "--trials 6 --confirm-seeds 1",
            (6, 1, 1),
            "up to 6 points and 1 baseline, 1 seed each: 7 runs at most",
        ),
        (
            "--no-baselines --confirm-points 2",
            (2, 0, 3),
            "up to 2 points, 3 seeds each: 6 runs at most",
        ),
    ],
    ids=["default", "few", "no baselines"],
)
def test_the_runs_of_the_confirmation_add_up(
    typed: str,
    parts: tuple[int, int, int],
    said: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["search", "--home", str(tmp_path), "--dry-run", *typed.split()]
    assert run([*command, "--json"]) == 0
    plan = json.loads(capfd.readouterr().out)
    points, baselines, seeds = parts
    assert plan["confirmation"] == {
        "points": points,
        "baselines": baselines,
        "seeds": seeds,
        "runs": (points + baselines) * seeds,
    }
    assert plan["forecast"]["runs"] == plan["confirmation"]["runs"]
    monkeypatch.setenv("COLUMNS", "200")
    assert run(command) == 0
    words = " ".join(capfd.readouterr().out.split())
    assert said in words
    assert f"to confirm in {plan['forecast']['runs']} runs at most" in words
    # The embedded model is stored in half precision, and worked with in full.
    dense = plan["dense"]
    assert (dense["dtype"], dense["precision"]) == ("float16", plan["bytes"]["precision"])
    assert dense["precision"] == "float32"
    assert "3.89 MiB in float16, worked with in float32 (7.77 MiB)" in words
