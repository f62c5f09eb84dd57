"""``autoprune convert`` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.originals import TOWER, TOWER_NAME, write_bunny

from autoprune.cli import main as cli
from autoprune.models.convert import bunny, run
from autoprune.models.convert.proof import LoadProof


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny checkpoint; the fresh process is left to the tests of the conversion."""
    monkeypatch.setitem(bunny.TOWERS, TOWER_NAME, TOWER)
    proof = LoadProof("LlavaForConditionalGeneration", 87, 4, 0.5)
    monkeypatch.setattr(run, "prove_load", lambda directory, model_class, digests: proof)
    return write_bunny(tmp_path / "source")


def test_says_what_was_done_and_what_is_next(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.run(["convert", str(source), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "file 1 of 1" in said
    assert f"done: {out} (LlavaForConditionalGeneration, " in said
    assert "all 87 tensors are as in the original" in said
    assert "note: the vision tower's sizes" in said
    assert f"autoprune search --model {out} --dry-run" in said
    assert (out / "model.safetensors").is_file()


def test_json_is_one_object(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["convert", str(source), "-o", str(tmp_path / "out"), "--json"]) == 0
    captured = capfd.readouterr()
    found = json.loads(captured.out)
    assert found["path"] == str(tmp_path / "out")
    assert found["layout"] == "bunny-phi"
    assert found["proof"]["tensors"] == 87
    assert "file 1 of 1" in captured.err


def test_bad_input_is_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, says in (
        ([str(tmp_path / "none"), "-o", str(tmp_path / "out")], "does not exist"),
        ([str(source), "-o", str(source)], "not empty"),
        ([str(source)], "--output"),
    ):
        assert cli.run(["convert", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert says in captured.err
