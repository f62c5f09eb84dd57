"""Which knobs mattered: found where there is one, and not where there is none."""

from __future__ import annotations

import re

import numpy as np
import optuna
import pytest

from autoprune.deploy.report.importance import LEAST, knob_importances
from autoprune.search.knobs.space import parse_space
from autoprune.tracking.records.trial import TrialRecord

SPACE = parse_space(
    """
description: toy
rungs: [0, 1]
knobs:
  size: {low: 0, high: 1}
  temperature: {low: 0, high: 1}
  scope: [full, lora]
  decay: linear
""",
    "toy",
)


def trials(count: int, rule: str, seed: int = 0, **changes: object) -> list[TrialRecord]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        size, heat = rng.uniform(size=2)
        scope = ("full", "lora")[rng.integers(2)]
        value = {"size": size, "noise": rng.uniform(), "same": 0.5}[rule]
        record = TrialRecord(
            trial=number,
            state="complete",
            fidelity=1.0,
            retention=float(value),
            knobs={"size": size, "temperature": heat, "scope": scope, "decay": "linear"},
        )
        found.append(record.model_copy(update=changes))
    return found


def test_the_knob_that_matters_is_found() -> None:
    found = knob_importances(trials(40, "size"), SPACE.distributions())
    assert found.trials == 40
    assert found.knobs[0].name == "size"
    assert found.knobs[0].share > 0.8
    assert [knob.name for knob in found.knobs if knob.beyond] == ["size"]
    assert "1 knob explains" in found.note
    assert found.varied == 3
    assert "decay" not in [knob.name for knob in found.knobs]


def test_noise_is_called_chance() -> None:
    """At 5 % a knob, one in twenty passes: of 3 knobs by 6 seeds at most 4 are let pass."""
    beyond = sum(
        knob.beyond
        for seed in range(6)
        for knob in knob_importances(trials(24, "noise", seed), SPACE.distributions()).knobs
    )
    assert beyond <= 4


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (trials(LEAST - 1, "size"), "9 trials have .* too few to say"),
        (trials(1, "size"), "1 trial has"),
        ([], "No trials have"),
        (trials(20, "size", state="stopped", fidelity=0.3), "No trials have"),
        (trials(20, "size", origin="refine"), "No trials have"),
        (trials(20, "same"), "alike"),
    ],
)
def test_too_little_is_said_to_be(records: list[TrialRecord], says: str) -> None:
    found = knob_importances(records, SPACE.distributions())
    assert not found.knobs
    assert re.search(says, found.note)


def test_the_same_trials_say_the_same_and_quietly() -> None:
    level = optuna.logging.get_verbosity()
    first, second = (knob_importances(trials(15, "size"), SPACE.distributions()) for _ in "ab")
    assert first == second
    assert optuna.logging.get_verbosity() == level
