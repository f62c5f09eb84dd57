from __future__ import annotations

import errno
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from autoprune.errors import AutoPruneError
from autoprune.search.records.lock import Lock
from autoprune.search.records.storage import open_storage
from autoprune.search.records.store import (
    SearchStore,
    find_search,
    find_searches,
    part_of,
    search_dir,
    write_atomically,
)
from autoprune.search.settings import LATER, make_settings
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.terms import Budget, Dense
from autoprune.tracking.records.trial import TrialRecord


def opened(home: Path, **values: Any) -> SearchStore:
    settings = make_settings({"name": "one", "home": home, **values})
    store = SearchStore(search_dir(home, settings.name))
    store.open(settings)
    return store


def test_records_survive_and_a_half_written_file_is_never_seen(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write_record(TrialRecord(trial=3, state="running"))
    store.write_record(TrialRecord(trial=3, state="complete", retention=0.5))
    (store.directory / "trials" / ".0004.json.77.part").write_text('{"trial": 4, "st')
    assert list(store.records()) == [3]
    assert store.records()[3].retention == 0.5


def test_nothing_is_left_of_a_checkpoint_that_was_being_written(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for directory in (store.rung_dir(3), part_of(store.rung_dir(3)), store.rung_dir(4)):
        directory.mkdir()
    store.drop_rung(3)
    assert list((store.directory / "rungs").iterdir()) == [store.rung_dir(4)]


READS: dict[str, tuple[Callable[[SearchStore], object], str]] = {
    "settings.json": (SearchStore.settings, "from a copy"),
    "space.json": (SearchStore.space, "from a copy"),
    "facts.json": (SearchStore.facts, "from a copy"),
    "front.json": (SearchStore.summary, "'autoprune search --resume one --home"),
    "trials/0003.json": (SearchStore.records, "'autoprune search --resume one --home"),
}
FOREIGN = b'{"a": 1}'
"""JSON, but of no record; facts have no form of their own, so for them it is no damage."""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (name, content)
        for name in READS
        for content in (b"{broken", b"[1]", b"\xff\xfe", FOREIGN)
        if (name, content) != ("facts.json", FOREIGN)
    ],
)
def test_a_damaged_file_is_named_with_its_mend(name: str, content: bytes, tmp_path: Path) -> None:
    read, mend = READS[name]
    store = opened(tmp_path)
    (store.directory / name).write_bytes(content)
    with pytest.raises(AutoPruneError) as caught:
        read(store)
    said = str(caught.value)
    assert "\n" not in said
    if content != FOREIGN or name != "settings.json":  # that one names the setting
        assert str(store.directory / name) in said
        assert mend in said


def test_a_damaged_journal_is_named_and_half_a_line_is_cut_off(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    optuna.create_study(storage=open_storage(None, journal))
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_co')
    open_storage(None, journal)
    assert journal.read_bytes() == whole
    journal.write_bytes(whole + b"\x00\x00\n" + whole)
    bad = whole.count(b"\n") + 1
    with pytest.raises(AutoPruneError, match=rf"study\.journal was damaged at line {bad}: remove"):
        open_storage(None, journal)


# what is asked the second time, what the error must say
OTHER = [
    ({"budgets": ("50%",)}, "--budget (60%, not 50%)"),
    ({"seed": 4}, "--seed (0, not 4)"),
    ({"space": "width"}, "--space (hybrid"),
    ({"data_fraction": 0.2}, "--data-fraction (none, not 0.2)"),
    ({"quantize": ("int8", "none")}, "--quantize (none, not none int8)"),
    ({"objective": "bytes"}, "--objective (params, not bytes)"),
]


@pytest.mark.parametrize(("values", "text"), OTHER)
def test_a_name_with_other_settings_says_which_and_how(
    values: dict[str, Any], text: str, tmp_path: Path
) -> None:
    opened(tmp_path)
    with pytest.raises(AutoPruneError) as caught:
        opened(tmp_path, **values)
    line = str(caught.value)
    assert text in line
    assert "--resume one" in line
    assert "another --name" in line
    assert "\n" not in line


def test_what_to_type_names_the_home_where_it_is_not_the_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUTOPRUNE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    usual = SearchStore(search_dir(Path("mlruns"), "one"))
    other = SearchStore(search_dir(Path("my runs"), "one"))
    assert usual.typed == "one"
    assert other.typed == f"one --home '{tmp_path / 'my runs'}'"
    monkeypatch.setenv("AUTOPRUNE_HOME", "my runs")
    assert usual.typed == f"one --home {tmp_path / 'mlruns'}"
    assert other.typed == "one"


def test_a_search_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    store = opened(tmp_path)
    path = store.directory / "settings.json"
    values = {k: v for k, v in json.loads(path.read_text()).items() if k not in LATER}
    path.write_text(json.dumps(values))
    assert store.settings({"trials": 30}).objective == "params"
    assert store.settings({"quantize": ("none",)}).trials == make_settings({}).trials
    with pytest.raises(AutoPruneError, match="--quantize cannot change"):
        store.settings({"quantize": ("int4",)})
    with pytest.raises(AutoPruneError, match=r"another --quantize .none, not int4"):
        opened(tmp_path, quantize=("int4",))
    assert opened(tmp_path).settings() == make_settings({"name": "one", "home": tmp_path})


def test_a_space_without_later_fields_is_the_same_space(tmp_path: Path) -> None:
    store = opened(tmp_path)
    path = store.directory / "space.json"
    space = json.loads(path.read_text())
    for knob in space["knobs"].values():
        assert "step" in knob or "low" not in knob
        if knob.get("step", 0) is None:
            del knob["step"]
    path.write_text(json.dumps(space))
    assert opened(tmp_path).space() == store.space()


def test_a_quantised_search_is_another_one(tmp_path: Path) -> None:
    opened(tmp_path, quantize=("none", "int8"))
    opened(tmp_path, quantize=("int8", "none"))
    with pytest.raises(AutoPruneError, match=r"another --quantize .none int8, not none"):
        opened(tmp_path)


def test_free_settings_may_change(tmp_path: Path) -> None:
    opened(tmp_path)
    store = opened(tmp_path, workers=5, trials=99, max_hours=2.0)
    assert store.settings().trials == 99
    assert store.settings({"workers": 7}).workers == 7
    with pytest.raises(AutoPruneError, match="--seed cannot change"):
        store.settings({"seed": 1})


def test_a_space_file_that_was_edited_is_another_search(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("description: d\nknobs:\n  size: {low: 0, high: 1}\n")
    opened(tmp_path, space=str(path))
    opened(tmp_path, space=str(path))
    path.write_text("description: d\nknobs:\n  size: {low: 0, high: 0.9}\n")
    with pytest.raises(AutoPruneError, match="--space"):
        opened(tmp_path, space=str(path))


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "searches").write_text("in the way")
    with pytest.raises(AutoPruneError, match=r"cannot write to .*--home"):
        opened(tmp_path)


def test_finds_searches_and_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(AutoPruneError, match="none was ever started"):
        find_search(tmp_path, "one")
    opened(tmp_path)
    assert [s.name for s in find_searches(tmp_path)] == ["one"]
    assert find_search(tmp_path, "one").exists()
    with pytest.raises(AutoPruneError, match="did you mean 'one'"):
        find_search(tmp_path, "onne")


def test_states(tmp_path: Path) -> None:
    store = SearchStore(search_dir(tmp_path, "one"))
    assert store.state() == "new"
    store = opened(tmp_path)
    assert store.state() == "interrupted"
    with store.lock():
        assert store.state() == "running"
    store.write_summary(
        SearchSummary(
            dense=Dense(params=9), budget=Budget(text="60%", params=5, fraction=0.6), name="one"
        )
    )
    assert store.state() == "finished"


def test_a_living_holder_keeps_the_lock(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock", "search 'one'"):  # noqa: SIM117
        with pytest.raises(AutoPruneError, match=f"search 'one' is being run by .*{os.getpid()}"):
            Lock(tmp_path / "lock", "search 'one'").acquire()
    with Lock(tmp_path / "lock", "search 'one'"):
        pass


def _hold_and_die(path: str) -> None:
    Lock(Path(path), "it").acquire()
    os._exit(9)


@pytest.mark.parametrize("content", ["killed", "reused pid", "garbage", "empty"])
def test_a_dead_holders_lock_is_taken_over(content: str, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    if content == "killed":
        process = multiprocessing.get_context("spawn").Process(
            target=_hold_and_die, args=(str(path),)
        )
        process.start()
        process.join()
        assert path.exists()
    elif content == "reused pid":
        with Lock(path, "it"):
            claim = json.loads(path.read_text())
        path.write_text(json.dumps({**claim, "started": claim["started"] - 100}))
    else:
        path.write_text({"garbage": "{]", "empty": ""}[content])
    with Lock(path, "it"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_a_full_disk_leaves_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings({"name": "first", "home": tmp_path / "home"})

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(AutoPruneError, match=r"cannot write to .*first .No space left"):
        SearchStore(search_dir(tmp_path / "home", "first")).open(settings)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "page.html", "text")
    assert list(tmp_path.iterdir()) == []
