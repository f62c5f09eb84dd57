"""``autoprune compare``: what it prints, draws and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import cli_fakes
import numpy as np
import pytest
from PIL import Image
from support.confirmed import finished_search

from autoprune.cli.main import run

BASE = {"paper-width": (0.6, 0.7)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("home")
    finished_search(place, "one", {0.4: 0.6, 0.5: 0.75, 0.6: 0.9}, BASE)
    better = {0.42: 0.75, 0.5: 0.85, 0.6: 0.93}
    finished_search(place, "two", better, BASE, draw=1, sampler="random")
    finished_search(place, "bytes", better, draw=1, objective="bytes")
    cli_fakes.started(place, "begun")
    cli_fakes.finished(place, "old")
    return place


def test_in_words(home: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["compare", "one", "two", "--home", str(home)]) == 0
    said = capfd.readouterr().out
    for words in (
        "hypervolume",
        "minus one",
        "better",
        "paper-width (60.0%) keeps",
        "2 min 15 s",
        "They differ in --sampler: tpe, random",
        "at 95 % each",
        str(home / "compare" / "one-two.png"),
    ):
        assert words in said, words
    assert said.count("paper-width") == 1
    tables = said.partition("Baselines")[0].splitlines()
    assert max(map(len, tables)) <= 80
    pixels = np.asarray(Image.open(home / "compare" / "one-two.png").convert("L"))
    assert pixels.std() > 3


def test_json_is_one_object(home: Path, tmp_path: Path, capfd) -> None:
    page = tmp_path / "new" / "fronts.html"
    asked = ["compare", "two", "one", "--home", str(home), "--json", "--plot", str(page)]
    assert run(asked) == 0
    said = capfd.readouterr()
    found = json.loads(said.out)
    assert said.err == ""
    assert [one["name"] for one in found["searches"]] == ["two", "one"]
    assert found["searches"][0]["gain"] is None
    assert set(found["searches"][1]["gain"]) == {"mean", "low", "high"}
    assert [len(row["held"]) for row in found["sizes"]] == [2] * len(found["sizes"])
    assert found["plot"] == str(page)
    text = page.read_text()
    assert "<script src=" not in text
    assert "budget 60%" in text


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        ("one", 2, "one search alone (one) cannot be compared"),
        ("one two one", 2, "search 'one' is named twice"),
        ("one twoo", 2, "did you mean 'two'"),
        ("one begun", 3, "has no confirmed front yet (2 of 12 trials have ended)"),
        ("one old", 2, "earlier versions kept none: 'autoprune search --resume old"),
        ("one bytes", 2, "different objectives (params; bytes)"),
        ("one two --plot fronts.pdf", 2, "ends neither in .png nor in .html"),
        ("one two --plot /proc/none/fronts.png", 2, "cannot write the plot"),
    ],
)
def test_bad_input_is_one_line(typed: str, code: int, said: str, home: Path, capfd) -> None:
    assert run(["compare", *typed.split(), "--home", str(home)]) == code
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_long_names_make_a_file_name(home: Path, capfd) -> None:
    names = [letter * 70 for letter in "ab"]
    for name in names:
        finished_search(home, name, {0.5: 0.8})
    assert run(["compare", *names, "--home", str(home), "--json"]) == 0
    assert Path(json.loads(capfd.readouterr().out)["plot"]).is_file()
