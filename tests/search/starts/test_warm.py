"""Results of earlier searches: whose count, at which size, told once, and run first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.search_toy import SPACE

from autoprune.errors import AutoPruneError
from autoprune.evaluation.tasks import resolve_tasks
from autoprune.search.knobs.space import Space, parse_space
from autoprune.search.records.storage import open_storage
from autoprune.search.records.store import SearchStore, search_dir
from autoprune.search.settings import SearchSettings, make_settings
from autoprune.search.starts.warm import check_warm, warm_up
from autoprune.search.study import SearchStudy
from autoprune.tracking.records.trial import TrialRecord
from autoprune.zoo import SPLITS

TOY = parse_space(SPACE, "toy")
FACTS: dict[str, Any] = {
    "dense": "abc",
    "tasks": sorted(task.name for task in resolve_tasks()),
    "max_recovery_samples": 800,
    "objective": "params",
    "sizes": {"params": [400, 800]},
    "deployable": "any",
    "multiple": 8,
    "search_samples": SPLITS["search"],
}


def earlier(home: Path, facts: dict[str, Any] | None = FACTS, name: str = "old") -> SearchStore:
    store = SearchStore(search_dir(home, name))
    store.open(make_settings({"home": home, "name": name}))
    if facts is not None:
        store.write("facts.json", json.dumps(facts))
    rows = [(0.0, 0.4, 0.3), (0.25, 0.5, 0.5), (0.5, 0.6, 0.6), (0.75, 0.7, 0.55), (1.0, 0.8, 0.8)]
    for trial, (size, fraction, retention) in enumerate(rows):
        knobs = TOY.complete({"size": size, "axis": "width", "temperature": 0.1 * trial})
        store.write_record(
            TrialRecord(
                trial=trial,
                state="complete",
                fidelity=1.0,
                fraction=fraction,
                retention=retention,
                knobs=knobs,
            )
        )
    store.write_record(TrialRecord(trial=5, state="stopped", fraction=0.5))
    return store


def asked(home: Path, **more: Any) -> SearchSettings:
    values = {"home": home, "name": "new", "warm_start": ("old",), "trials": 12}
    return make_settings({**values, **more})


def fresh(home: Path, settings: SearchSettings) -> SearchStore:
    store = SearchStore(search_dir(home, settings.name))
    store.open(settings)
    return store


def test_sizes_mean_the_same_in_another_range(tmp_path: Path) -> None:
    earlier(tmp_path)
    settings = asked(tmp_path)
    store = fresh(tmp_path, settings)
    warm = warm_up(settings, TOY, store, {**FACTS, "sizes": {"params": [500, 700]}})
    assert [row.key for row in warm.told] == ["old:1", "old:2", "old:3"]
    assert [row.knobs["size"] for row in warm.told] == pytest.approx([0.0, 0.5, 1.0])
    assert [(row.size, row.retention) for row in warm.told][1] == (0.6, 0.6)
    # Two of twelve trials: both ends of the front, of which the largest is no member.
    assert [b.knobs["size"] for b in warm.first] == pytest.approx([0.0, 0.5])
    assert {b.name for b in warm.first} == {"warm"}
    assert "3 of 6" in warm.notes[0]
    assert "2 lie at sizes" in warm.notes[0]
    assert "1 did not end" in warm.notes[0]


def test_what_was_taken_over_outlives_where_it_came_from(tmp_path: Path) -> None:
    old = earlier(tmp_path)
    settings = asked(tmp_path)
    store = fresh(tmp_path, settings)
    first = warm_up(settings, TOY, store, FACTS)
    assert len(first.told) == 5
    for path in (old.directory / "trials").iterdir():
        path.unlink()
    assert warm_up(settings, TOY, store, FACTS) == first


@pytest.mark.parametrize(
    ("fact", "value", "said"),
    [
        ("dense", "other", "another --model"),
        ("tasks", ["a"], "another --tasks"),
        ("max_recovery_samples", 400, "another --max-recovery-samples"),
        ("objective", "bytes", "another --objective"),
        ("deployable", "stock", r"another --deployable \(stock, not any\)"),
        ("search_samples", 100, r"another --search-samples \(100, not 384\)"),
        ("multiple", 64, r"another --multiple \(64, not 8\)"),
        ("floors", ["digits_read=0.9"], "another --floor"),
        ("data", "of another hash", "another --data"),
        ("device", ["rtx-4060", "6GiB-memory"], "another --device"),
    ],
)
def test_another_question_is_refused(tmp_path: Path, fact: str, value: Any, said: str) -> None:
    earlier(tmp_path, {**FACTS, fact: value})
    settings = asked(tmp_path, multiple=8)
    if fact != "dense":
        with pytest.raises(AutoPruneError, match=said):
            check_warm(settings)
    else:
        check_warm(settings)
    with pytest.raises(AutoPruneError, match=said) as caught:
        warm_up(settings, TOY, fresh(tmp_path, settings), FACTS)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({}, {}, ""),
        ({}, {"multiple": 8}, r"another --multiple \(what suits the model, not 8\)"),
        ({"deployable": "stock"}, {"space": "hybrid"}, "another --deployable"),
        ({"search_samples": 100}, {}, "another --search-samples"),
    ],
)
def test_what_an_earlier_version_did_not_write_down_stands_in_its_settings(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], said: str
) -> None:
    later = ("deployable", "multiple", "search_samples")
    store = SearchStore(search_dir(tmp_path, "old"))
    store.open(make_settings({"home": tmp_path, "name": "old", **before}))
    store.write("facts.json", json.dumps({k: v for k, v in FACTS.items() if k not in later}))
    settings = asked(tmp_path, **now)
    if not said:
        check_warm(settings)
        # What suits the model is known once it is prepared, and is the same in both.
        warm_up(settings, TOY, fresh(tmp_path, settings), FACTS)
        return
    with pytest.raises(AutoPruneError, match=said):
        check_warm(settings)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    earlier(tmp_path, None)
    with pytest.raises(AutoPruneError, match="does not say what model"):
        check_warm(asked(tmp_path))
    with pytest.raises(AutoPruneError, match="no search 'olf'"):
        check_warm(asked(tmp_path, warm_start=("olf",)))
    with pytest.raises(AutoPruneError, match="this search itself"):
        check_warm(asked(tmp_path, warm_start=("new",)))


def narrower(text: str) -> Space:
    return parse_space(SPACE.replace("axis: [width, depth]", text), "toy")


def test_knobs_that_a_space_cannot_set_are_left_out(tmp_path: Path) -> None:
    earlier(tmp_path)
    settings = asked(tmp_path)
    warm = warm_up(settings, narrower("axis: depth"), fresh(tmp_path, settings), FACTS)
    assert not warm.told
    assert "5 have knobs that this search's space does not sample" in warm.notes[0]


def test_results_are_told_once_and_are_nobodys_trials(tmp_path: Path) -> None:
    earlier(tmp_path)
    settings = asked(tmp_path)
    warm = warm_up(settings, TOY, fresh(tmp_path, settings), FACTS)

    def opened() -> SearchStudy:
        storage = open_storage(None, tmp_path / "journal")
        return SearchStudy(storage, "new", TOY.distributions(), "tpe", 0, 12)

    study = opened()
    study.learn(warm.told[:2])  # killed in between
    study = opened()
    study.learn(warm.told)
    study.reconcile({}, {})
    assert [t.user_attrs["from"] for t in study.trials()] == [f"old:{n}" for n in range(5)]
    first = study.ask(0)
    study.complete(0, 0.5, 0.5, {})
    assert study.trials()[5].user_attrs["trial"] == 0
    assert set(first) == set(TOY.distributions())


def test_a_storage_gives_results_where_the_home_does_not(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = SearchStudy(open_storage(url, Path()), "old", TOY.distributions(), "random", 0, 9)
    study.describe({**FACTS, "fixed": TOY.complete({})})
    for number in range(3):
        study.ask(number)
        study.complete(number, 0.5, 0.1 * number, {})
    settings = asked(tmp_path, storage=url)
    check_warm(settings)
    warm = warm_up(settings, TOY, fresh(tmp_path, settings), FACTS)
    assert [row.key for row in warm.told] == ["old:0", "old:1", "old:2"]
    assert all(0 <= float(row.knobs["size"]) <= 1 for row in warm.told)
