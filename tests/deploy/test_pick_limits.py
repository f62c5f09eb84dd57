"""Constraints of a pick: how they are read, when they are met, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.confirmed import finished_search

from autoprune.cost.latency import Latency
from autoprune.cost.memory import Memory
from autoprune.deploy.pick.candidates import Candidate, read_pool
from autoprune.deploy.pick.choose import choose
from autoprune.deploy.pick.limits import Limit, read_limits
from autoprune.deploy.pick.pick import Picked, nothing_fits
from autoprune.errors import AutoPruneError
from autoprune.search.compare import read_finished


@pytest.mark.parametrize(
    ("typed", "bounds"),
    [
        ({"max_latency": "40ms"}, [0.04]),
        ({"max_latency": "1.5 s", "max_params": "850m"}, [1.5, 850e6]),
        ({"max_params": "3B", "max_memory": "6GiB"}, [3e9, 6 * 2**30]),
        ({"min_retention": 0.95, "max_memory": "500MB"}, [0.95, 500e6]),
        ({"max_params": "1200000"}, [1.2e6]),
    ],
)
def test_limits_are_read(typed: dict[str, Any], bounds: list[float]) -> None:
    assert [limit.bound for limit in read_limits(**typed)] == pytest.approx(bounds)


def test_a_bound_that_is_just_met_is_met() -> None:
    kept = (0.86 - 0.5) / (0.9 - 0.5)
    assert kept < 0.9
    limit = Limit("--floor", "pope=0.9", "kept", 0.9, most=False)
    assert limit.missed({"kept": kept}) == 0.0
    assert limit.missed({"kept": 0.81}) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"max_latency": "40"}, "--max-latency '40' cannot be read"),
        ({"max_latency": "-3ms"}, "--max-latency '-3ms' cannot be read"),
        ({"max_memory": "6 giraffes"}, "--max-memory '6 giraffes' cannot be read"),
        ({"max_params": "0B"}, "--max-params '0B' is not above zero"),
        ({"max_params": "1.2.3B"}, "--max-params '1.2.3B' is not above zero"),
        ({"min_retention": 1.5}, "--min-retention 1.5 is no share"),
    ],
)
def test_limits_that_cannot_be_read_are_named(typed: dict[str, Any], said: str) -> None:
    with pytest.raises(AutoPruneError, match=said):
        read_limits(**typed)


def test_a_time_that_is_not_known_meets_no_bound(tmp_path: Path) -> None:
    """Of a model that does not fit a machine no time is measured."""
    store = finished_search(tmp_path, "one", {0.4: 0.8, 0.6: 0.9}, {"uniform": (0.6, 0.7)})
    pool = read_pool([read_finished(store, store.confirmed())])
    small, large, base = pool.candidates
    fast = Limit("--max-latency", "1ms", "latency", 1e-3)
    room = Limit("memory of here", "", "memory", 100.0)

    def costing(candidate: Candidate, memory: int, seconds: float | None) -> Candidate:
        latency = None if seconds is None else Latency(seconds, "measured", "here")
        return replace(candidate, memory=Memory(memory, 0, 0), latency=latency)

    candidates = (costing(small, 90, 2e-3), costing(large, 900, None), costing(base, 95, 3e-3))
    pool = replace(pool, candidates=candidates)
    choice = choose([c.entry for c in candidates], (fast, room), "latency", pool.differ())
    assert choice.winner is None
    found = Picked(choice, candidates, (fast, room), "latency", "params", "here", None)
    assert "--max-latency 1ms cannot be met: the least is 2ms a token measured" in nothing_fits(
        found
    )
