"""How many trials are forecast to reach each rung."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.search.fidelity.halving import Arrival, Halving
from autoprune.search.fidelity.reach import reaching
from autoprune.search.knobs.space import load_space
from autoprune.search.settings import make_settings

HYBRID = load_space("hybrid")


def test_nobody_is_stopped_where_nobody_may_be() -> None:
    assert reaching(make_settings({"trials": 4}), HYBRID, 1) == (3.0,) * 4
    asked = make_settings({"trials": 40, "early_stopping": False})
    assert reaching(asked, HYBRID, 6) == (34.0,) * 4


@pytest.mark.parametrize("trials", [12, 24, 100])
def test_as_many_are_stopped_as_halving_stops_of_random_arrivals(trials: int) -> None:
    asked = {"trials": trials, "sampler": "random", "refine": 0}
    expected = reaching(make_settings(asked), HYBRID, 4)
    counts = np.zeros(4)
    turns = 30
    for turn in range(turns):
        dice = np.random.default_rng(turn)
        halving = Halving(first=4)
        for number in range(trials):
            axis = str(dice.choice(["width", "depth", "hybrid"]))
            for rung in range(4):
                counts[rung] += number >= 4
                arrival = Arrival(number, 0.5, float(dice.normal()), axis)
                if rung < 3 and halving.judge(rung, arrival, baseline=number < 4).stop:
                    break
    assert expected == pytest.approx(tuple(counts / turns), rel=0.1, abs=0.6)


def test_what_begins_at_the_front_is_stopped_less_often() -> None:
    def last(**values: object) -> float:
        return reaching(make_settings({"trials": 28, **values}), HYBRID, 4, 6)[-1]

    chance = last(sampler="random", refine=0)
    assert chance < last(sampler="random", refine=0.25) < last(refine=0.25) < 24
    assert last(refine=0) == last(refine=0, sampler="gp") > chance
