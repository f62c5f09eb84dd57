"""What lies beside a finished search in MLflow; the search does not depend on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from autoprune.errors import AutoPruneError
from autoprune.search.records.store import SearchStore
from autoprune.search.tracked import SearchLog
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.terms import Budget, Dense

SUMMARY = SearchSummary(
    dense=Dense(params=2), budget=Budget(text="50%", params=1, fraction=0.5), name="demo"
)


class Kept:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def log_text(self, path: str, text: str) -> None:
        self.texts[path] = text


def test_what_is_made_is_logged(tmp_path: Path) -> None:
    kept, warnings = Kept(), list[str]()
    log = SearchLog(cast(Any, kept), warnings.append)
    log.attach(
        lambda store, summary: {"a.txt": f"{store.name} {summary.name}"}, store(tmp_path), SUMMARY
    )
    assert kept.texts == {"a.txt": "here demo"}
    assert warnings == []


@pytest.mark.parametrize("error", [AutoPruneError("no file\nat all"), ZeroDivisionError()])
def test_what_cannot_be_made_costs_a_line(error: Exception, tmp_path: Path) -> None:
    kept, warnings = Kept(), list[str]()

    def fails(*_: object) -> dict[str, str]:
        raise error

    SearchLog(cast(Any, kept), warnings.append).attach(fails, store(tmp_path), SUMMARY)
    assert kept.texts == {}
    assert len(warnings) == 1
    assert "\n" not in warnings[0]


def test_without_tracking_nothing_is_made(tmp_path: Path) -> None:
    def unwanted(*_: object) -> dict[str, str]:
        raise AssertionError("it was made")

    warnings: list[str] = []
    SearchLog(None, warnings.append).attach(unwanted, store(tmp_path), SUMMARY)
    assert warnings == []


def store(tmp_path: Path) -> SearchStore:
    return SearchStore(tmp_path / "here")
