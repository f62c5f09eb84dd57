"""What is read off searches: fronts chosen by one split, and measured on another."""

from __future__ import annotations

from typing import Any

import pytest

from autoprune.search.fidelity.halving import Halving
from autoprune.search.knobs.space import load_space
from experiments.claims import adjusted_text, claim_text
from experiments.search_quality.analyse import again
from experiments.search_quality.arms import ARMS
from experiments.search_quality.loop import picked
from experiments.search_quality.measures import (
    at,
    cost_of,
    curve,
    enqueued,
    front,
    started,
    volume,
)
from experiments.search_quality.replay import COSTS, replay
from experiments.search_quality.targets import (
    MOST,
    closed,
    difference,
    final,
    ideal,
    of_gain,
    reached,
    verdict,
)


def trial(
    size: float, search: float | None, report: float, spent: float, origin: str = "sampler"
) -> dict[str, Any]:
    return {
        "size": size,
        "removed": 1 - size,
        "search": search,
        "report": report,
        "spent": spent,
        "origin": origin,
    }


TRIALS = [
    trial(0.7, 0.80, 0.70, 1.0, "paper-depth"),
    trial(0.5, 0.60, 0.65, 2.0),
    trial(0.6, 0.55, 0.99, 3.0),  # best on report, and not chosen: search does not know
    trial(0.5, None, 0.0, 4.0),  # stopped
    trial(0.6, 0.75, 0.72, 5.0, "refine"),
]


def test_the_front_is_chosen_by_search_and_measured_on_report() -> None:
    assert [t["spent"] for t in front([t for t in TRIALS if t["search"] is not None])] == [2, 5, 1]
    assert volume(TRIALS, 1.5) == pytest.approx(0.3 * 0.70)
    assert volume(TRIALS, 2.5) == pytest.approx(0.2 * 0.65 + 0.3 * 0.70)
    assert volume(TRIALS, 4.5) == volume(TRIALS, 2.5)
    # The last one has the larger search score, at 0.7 the report says less than at 0.6.
    assert volume(TRIALS, 5.0) == pytest.approx(0.1 * 0.65 + 0.4 * 0.72)
    assert [value for _, value in curve(TRIALS, 5.0, 5)] == [volume(TRIALS, s) for s in range(1, 6)]
    assert started(TRIALS) == pytest.approx(0.3 * 0.70)
    assert enqueued(TRIALS) == 1.0


def test_costs_and_sizes() -> None:
    assert cost_of(TRIALS, lambda value: value >= 0.3) == 2.0
    assert cost_of(TRIALS, lambda value: value >= 0.9) is None
    assert at(TRIALS, 0.4) == 0.72
    assert at(TRIALS, 0.45) == 0.65
    assert at(TRIALS, 0.6) is None
    assert picked(TRIALS, 0.3) == TRIALS[0]


def test_searches_are_the_unit() -> None:
    rows = {
        f"{arm}{seed}{fresh}": {
            "target": 0.3,
            "arm": arm,
            "search_seed": seed,
            "report": base + 0.01 * seed + 0.001 * fresh,
        }
        for arm, base in (("full", 0.9), ("random", 0.8))
        for seed in range(3)
        for fresh in range(2)
    }
    full, random = again(rows)
    assert full["searches"] == 3
    assert full["R"].startswith("0.911 (0.886 … 0.935")
    assert random["full minus it"] == "+0.100 (+0.100 … +0.100)"


def search(*trials: dict[str, Any]) -> dict[str, Any]:
    return {"trials": list(trials), "prepared": 1.0, "budget": 9.0}


EARLY = search(
    trial(0.7, 0.5, 0.5, 2.0, "uniform"), trial(0.5, 0.8, 0.8, 4.0), trial(0.6, 0.1, 0.1, 9.0)
)
LATE = search(
    trial(0.7, 0.5, 0.5, 3.0, "uniform"), trial(0.5, 0.6, 0.6, 5.0), trial(0.5, 0.8, 0.8, 8.0)
)


def test_differences_are_paired_by_seed() -> None:
    assert difference({0: EARLY}, {1: LATE}) is None
    alone = difference({0: EARLY, 1: EARLY}, {1: LATE})
    assert alone is not None
    assert claim_text(alone, 4) == "+0.0000"
    searches = [search(trial(0.5, score, score, 5.0)) for score in (0.8, 0.6, 0.5)]
    better, worse, worst = searches
    claim = difference({0: better, 1: worse}, {0: worse, 1: worst})
    assert claim is not None
    assert claim.mean == pytest.approx((0.10 + 0.05) / 2)
    assert claim.low < 0 < claim.high
    assert claim.p == pytest.approx(0.2048, abs=1e-3)  # Student, t = 3 with one degree
    assert adjusted_text({"a": claim, "b": alone}) == {"a": "0.2", "b": ""}


def test_costs_are_shares_of_the_others() -> None:
    assert reached({0: EARLY}, {0: LATE}) == [(4 + 1) / (9 + 1)]
    whole, behind = of_gain({0: EARLY}, {0: LATE})
    assert whole == [(4 + 1) / (8 + 1)]
    assert behind == [(4 - 2) / (8 - 3)]
    # A tenth of the gain is there with the first trial that is not enqueued.
    assert of_gain({0: EARLY}, {0: LATE}, 0.1)[0] == [(4 + 1) / (5 + 1)]
    never = search(trial(0.7, 0.5, 0.5, 2.0, "uniform"))
    assert of_gain({0: never}, {0: LATE}) == ([MOST], [MOST])
    assert reached({0: never}, {0: LATE}) == [1.0]
    gap = ideal() - final(LATE)
    better = search(trial(0.4, 0.8, 0.8, 1.0))
    assert closed({0: better}, {0: LATE}) == [pytest.approx((final(better) - final(LATE)) / gap)]


@pytest.mark.parametrize(
    ("mean", "low", "said"),
    [(0.5, 0.4, "met"), (0.35, 0.1, "met in the mean, not shown"), (0.2, 0.1, "missed")],
)
def test_a_target_is_met_by_its_interval(mean: float, low: float, said: str) -> None:
    assert verdict(mean, low, 0.3) == said


def test_a_replay_stops_what_falls_behind() -> None:
    scores = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
    trials = [
        {**trial(0.5, s, s, 0.0), "cost": 1.0, "axis": "width", "values": [s] * 4} for s in scores
    ]
    plain = replay(trials, 3.0, None)
    assert [(t["search"], t["spent"]) for t in plain] == [(0.9, 1.0), (0.8, 2.0), (0.7, 3.0)]
    halved = replay(trials, 100.0, Halving(exempt_share=0.0))
    assert [t["search"] for t in halved] == list(scores[:4])
    assert halved[-1]["spent"] == 4.0
    # The last comes where it would have been seen to fall behind, and costs that much.
    better = replay([*trials, {**trials[0], "search": 0.95}], 100.0, Halving(exempt_share=0.0))
    assert better[-1]["spent"] == pytest.approx(5.0 + 4 * COSTS[0])


def test_arms_differ_in_one_thing() -> None:
    default = load_space("hybrid")
    assert ARMS["full"].settings == {}
    for name in ("full", "random", "no-fidelity", "no-baselines", "no-refinement", "gp"):
        assert ARMS[name].space() == default
    for name in ("no-fidelity", "no-baselines", "no-refinement", "gp"):
        assert len(ARMS[name].settings) == 1
    rule, grid = ARMS["rule"].space(), ARMS["grid"].space()
    assert {n: rule.knobs[n] for n in ("recovery", "scope", "decay", "data_fraction")} == {
        n: default.knobs[n] for n in ("recovery", "scope", "decay", "data_fraction")
    }
    assert grid.knobs["backbone_removed"].values() == (0.30, 0.45, 0.60)
    assert grid.knobs["recovery"] == load_space("paper").knobs["recovery"]


def test_what_lies_below_the_smallest_size_counts_as_the_smallest() -> None:
    cut = trial(0.2, 0.8, 0.8, 1.0)  # removes 80 %, asked for 70 %
    assert volume([cut], 1.0) == pytest.approx(0.7 * 0.8)
