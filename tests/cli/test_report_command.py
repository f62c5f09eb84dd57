"""``autoprune report`` as it is typed: where it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import cli_fakes
import pytest

from autoprune.cli.main import run


def test_it_writes_one_file_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli_fakes.finished(tmp_path)
    path = tmp_path / "new" / "page.html"
    assert run(["report", "demo", "-o", str(path), "--home", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "embedded keeps 0.960 (0.950 to 0.970) of its ability" in said
    assert f"done: {path}" in said
    assert path.read_text().startswith("<!doctype html>")
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_by_default_it_lies_with_the_search(tmp_path: Path) -> None:
    store = cli_fakes.started(tmp_path)
    assert run(["report", "demo", "--home", str(tmp_path)]) == 0
    assert "nothing is confirmed yet" in (store.directory / "report.html").read_text()


def test_a_search_that_runs_is_called_so(tmp_path: Path) -> None:
    store = cli_fakes.started(tmp_path)
    with store.lock():
        assert run(["report", "demo", "--home", str(tmp_path)]) == 0
    assert "Still running" in (store.directory / "report.html").read_text()
    assert run(["report", "demo", "--home", str(tmp_path)]) == 0
    assert "Stopped before its end" in (store.directory / "report.html").read_text()


@pytest.mark.parametrize("works", [True, False])
def test_open_shows_it(
    works: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened: list[str] = []

    def browser(address: str) -> bool:
        opened.append(address)
        return works

    monkeypatch.setattr("webbrowser.open", browser)
    store = cli_fakes.finished(tmp_path)
    assert run(["report", "demo", "--open", "--home", str(tmp_path)]) == 0
    assert opened == [(store.directory / "report.html").as_uri()]
    assert ("no browser was found" in capsys.readouterr().out) != works


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["report", "demi"], "no search 'demi'"),
        (["report", "demo", "-o", "page.pdf"], "does not end in .html"),
        (["report", "demo", "-o", "{home}/page.html"], "is a directory"),
        (["report", "demo", "-o", "{home}/file/page.html"], "cannot write the report"),
        (["report"], "Missing argument 'NAME'"),
    ],
)
def test_bad_input_is_a_line_and_writes_nothing(
    typed: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli_fakes.finished(tmp_path)
    (tmp_path / "page.html").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    words = [word.format(home=tmp_path) for word in typed]
    assert run([*words, "--home", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_record_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = cli_fakes.started(tmp_path)
    (store.directory / "trials" / "0001.json").write_text("{")
    assert run(["report", "demo", "--home", str(tmp_path)]) == 2
    assert "0001.json was damaged" in capsys.readouterr().err
    assert not (store.directory / "report.html").exists()
