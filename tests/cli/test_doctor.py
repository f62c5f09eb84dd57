"""``autoprune doctor`` as a user runs it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autoprune.cli.main import run
from autoprune.doctor import machine as machines


def test_a_machine_that_is_well_is_told_what_it_can_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--home", str(tmp_path), "--workers", "2", "--json"]) == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert said["machine"]["cores"] >= 1
    assert said["hour"]["workers"] == 2
    assert said["hour"]["trials"] > 24
    assert {check["state"] for check in said["checks"]} <= {"ok", "note"}
    assert "--workers 2 --trials" in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_problem_ends_with_its_mend_and_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = machines.this_machine

    def poor(home: Path) -> machines.Machine:
        return replace(real(home), available=2**20)

    monkeypatch.setattr(machines, "this_machine", poor)
    assert run(["doctor", "--home", str(tmp_path)]) == 3
    said = " ".join(capsys.readouterr().out.split())
    assert "PROBLEM memory" in said
    assert "-> free some" in said
    assert "In an hour" not in said


def test_a_model_that_is_not_there_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--home", str(tmp_path), "--model", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
