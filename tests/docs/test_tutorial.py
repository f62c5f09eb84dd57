"""The tutorial and the page on Python, run from top to bottom."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .shell import ROOT, commands, python_blocks, run


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    given: dict[str, str] = {}
    told = commands("docs/tutorial.md")
    assert len(told) > 8
    for command in told:
        run(command, tmp_path, given)
        if command.startswith("autoprune front first"):
            front = json.loads(run("autoprune front first --json", tmp_path, {}))
            given["first:7"] = f"first:{front['points'][0]['trial']}"
    assert (tmp_path / "smaller-model" / "model.safetensors").is_file()
    assert (tmp_path / "first.html").is_file()


@pytest.mark.slow
def test_the_page_on_python_runs(tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text(python_blocks("docs/python.md"))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "parameters, 50.0% of the whole" in done.stdout
    assert (tmp_path / "exported" / "config.json").is_file()
