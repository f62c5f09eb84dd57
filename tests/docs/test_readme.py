"""Every command of the README, in order, in one folder; what cannot be had here has a stand-in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.benchmarks import write
from support.user_data import llava
from support.yaml_tasks import write_tasks

from autoprune.zoo import embedded_path

from .shell import ROOT, commands, run

ELSEWHERE = {
    "make demo": "tests/docs/test_readme.py",  # its search is run below
    "make test": ".ci/run",
    "autoprune convert": "tests/cli/test_convert_command.py",
    "lmms-eval": "tests/deploy/test_lmms_model.py",
}
"""How commands begin that are not run from here, and what runs them."""


def test_what_runs_elsewhere_is_there() -> None:
    assert all((ROOT / path).is_file() for path in ELSEWHERE.values())


@pytest.mark.slow
def test_the_readme_runs(tmp_path: Path) -> None:
    shutil.copytree(embedded_path(), tmp_path / "my-vlm")
    llava(tmp_path, name="my_data.json")
    read, _ = write_tasks(tmp_path / "tasks")
    copies = " ".join(
        f"--task-data {name}={write(name, tmp_path / 'copies')}" for name in ("pope", "gqa")
    )
    given = {
        "pope,gqa,./my_task.yaml": f"pope,gqa,{read} {copies}",
        "3B-params": "1.2M-params",
        "2B-params": "1.2M-params",
        "6GiB-memory": "12MiB-memory",
        "--model bunny-3b": "--model my-vlm",
        "--gpus-per-trial 1": "--cpus-per-trial 1",
    }
    demo = "autoprune search --budget 60% --trials 24 --name demo"
    assert f"{demo}\n" in (ROOT / "Makefile").read_text().replace("$(BIN)/", "")
    run(demo, tmp_path, given)
    front = json.loads(run("autoprune front demo --json", tmp_path, given))
    best = max(front["points"], key=lambda point: point["retention"]["low"])
    given["demo:7"] = f"demo:{best['trial']}"
    given["--min-retention 0.8"] = f"--min-retention {best['retention']['low']:.3f}"
    for command in commands("README.md"):
        if not command.startswith(tuple(ELSEWHERE)):
            run(command, tmp_path, given)
    assert (tmp_path / "smaller-model" / "model.safetensors").is_file()
    assert (tmp_path / "report.html").is_file()
    searches = {path.name for path in (tmp_path / "mlruns" / "searches").iterdir()}
    assert {"demo", "uniform", "mine", "fast", "bits"} <= searches
