"""What the doctor finds on machines that lack something."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from support.machines import GIB, WELL

from autoprune.doctor import checks
from autoprune.doctor.checks import CHECKS, Check, Patient, examine, workers_within


def found(tmp_path: Path, **changes: Any) -> dict[str, Check]:
    """Return by name what is found on a machine with so much changed; versions are left out."""
    patient = Patient(replace(WELL, **changes), tmp_path)
    skipped = (checks._packages, checks._imports, checks._embedded)
    return {check.name: check for look in CHECKS if look not in skipped for check in look(patient)}


@pytest.mark.parametrize(
    ("changes", "name", "state", "words"),
    [
        ({}, "GPU", "ok", "NVIDIA L4, 23GiB free of 24GiB"),
        ({"gpus": ()}, "GPU", "problem", "torch sees no GPU"),
        ({"gpus": (), "driver": False}, "GPU", "note", "computed on the CPU"),
        ({"available": GIB}, "memory", "problem", "1GiB free"),
        ({}, "memory", "ok", "24GiB free of 32GiB"),
        ({"shared": 64 * 2**20}, "shared memory", "note", "64MiB free"),
        ({"shared": None}, "shared memory", "note", "no /dev/shm"),
        ({"disk": GIB}, "disk", "problem", "1GiB free"),
        ({"open_files": 256}, "open files", "note", "256"),
        ({"load": 7.5}, "processor", "note", "7.5 of them busy"),
    ],
)
def test_what_is_wrong_is_said_with_its_mend(
    changes: dict[str, Any], name: str, state: str, words: str, tmp_path: Path
) -> None:
    check = found(tmp_path, **changes)[name]
    assert (check.state, words in check.found) == (state, True)
    assert check.mend or state != "problem"


def test_a_home_that_cannot_be_made_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = {c.name: c for look in (checks._disk,) for c in look(Patient(WELL, tmp_path / "file"))}
    assert found["disk"].state == "problem"
    assert "--home" in found["disk"].mend


def test_versions_are_held_against_what_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "1.0", "optuna": None}
    real = metadata.version

    def version(name: str) -> str:
        if name in versions and versions[name] is None:
            raise metadata.PackageNotFoundError(name)
        return versions.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    said = {check.found: check for check in checks._packages(Patient(WELL, Path()))}
    assert any(text.startswith("torch 1.0 is not") for text in said)
    assert "optuna is missing" in said
    assert all(check.state == "problem" and "pip install" in check.mend for check in said.values())


def test_a_build_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr(checks.importlib, "import_module", broken)
    (check,) = checks._imports(Patient(WELL, Path()))
    assert check.state == "problem"
    assert "nms does not exist" in check.found
    assert "more" not in check.found


def test_this_installation_is_well(tmp_path: Path) -> None:
    states = {check.name: check.state for check in examine(Patient(WELL, tmp_path))}
    assert {name for name, state in states.items() if state == "problem"} == set()
    assert {"python", "packages", "imports", "embedded model"} <= set(states)


def test_workers_share_what_the_driver_leaves() -> None:
    assert workers_within(2 * GIB) == 0
    assert workers_within(24 * GIB) > workers_within(24 * GIB, held=GIB) > 0
