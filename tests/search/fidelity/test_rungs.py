"""How a rung's result counts in halving: what is over the budget comes last."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.toy_campaign import campaign, fields

from autoprune.search.fidelity.rungs import arrival_of, violation
from autoprune.tracking.records.terms import Budget
from autoprune.tracking.records.trial import TrialRecord

PARAMS = Budget(text="60%", params=600, fraction=0.6)
BOTH = Budget(text="60% and 2KiB-bytes", params=600, fraction=0.6, bytes=2000)


@pytest.mark.parametrize(
    ("params", "stored", "budget", "over"),
    [
        (600, 2400, PARAMS, 0.0),
        (300, 1200, PARAMS, 0.0),
        (630, 2520, PARAMS, 0.05),
        (630, 2520, None, 0.0),
        (600, 2000, BOTH, 0.0),
        (600, 2400, BOTH, 0.2),
        (900, 2400, BOTH, 0.5),
        (None, None, BOTH, 0.0),
    ],
)
def test_violation_is_the_share_over_the_budget(
    params: int | None, stored: int | None, budget: Budget | None, over: float
) -> None:
    size = None if params is None else params / 1000
    record = TrialRecord(
        trial=3, state="running", params=params, bytes=stored, fraction=size, rung_values=(0.5,)
    )
    assert violation(record, budget) == pytest.approx(over)
    arrival = arrival_of(record, 0, "params", budget)
    assert (arrival is None) == (size is None)
    if arrival is not None:
        assert arrival.violation == pytest.approx(over)


@pytest.mark.parametrize("restored", [False, True])
def test_what_is_over_the_budget_is_stopped_however_good(tmp_path: Path, restored: bool) -> None:
    budget = Budget(text="60%", params=600, fraction=0.6)
    c = campaign(tmp_path, trials=40, budget=budget)
    stopped = {}
    for _ in range(24):
        job = c.next_job()
        assert job is not None
        over = job.number % 8 == 7
        best = {"proxy_kl": 0.0, "params": 700, "fraction": 0.3} if over else {}
        stopped[job.number] = not c.arrived(job.number, {**fields(job, 0), **best})
        if restored and job.number == 12:
            c.close()
            c = campaign(tmp_path, trials=40, budget=budget)
            c._again.clear()
    free = {n for n in stopped if c.halving.exempt(n) or c.records[n].baseline is not None}
    late = {n for n in stopped if n >= 12} - free
    assert {n for n in late if n % 8 == 7} <= {n for n in late if stopped[n]}
    seen = {a.trial: a.violation for a in c.halving.arrivals[0].values()}
    assert {n for n, over in seen.items() if over > 0} == {n for n in seen if n % 8 == 7}
