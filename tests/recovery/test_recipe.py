from __future__ import annotations

import json

import pytest

from autoprune.errors import AutoPruneError
from autoprune.recovery.guidance import default_learning_rate, recommended
from autoprune.recovery.recipe import RecoveryRecipe


def test_round_trip_through_json() -> None:
    recipe = RecoveryRecipe(sft=0.5, hidden=0.5, scope="lora", sample_passes=77, seed=3)
    assert RecoveryRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    "values",
    [
        {"sft": -1.0},
        {"kl": float("nan")},
        {"data_fraction": 0.0},
        {"data_fraction": 1.01},
        {"learning_rate": 0.0},
        {"batch_size": 0},
        {"batch_size": 4, "accumulate": 5},
        {"warmup": 1.0},
        {"temperature": 0.0},
        {"scope": "projecter"},
        {"sft": 0.0},
        {"sample_passes": -1},
    ],
    ids=str,
)
def test_values_outside_their_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(AutoPruneError):
        RecoveryRecipe(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [{"sfft": 1.0}, {"batch_size": 2.5}, {"scope": 1}, {"sft": "1"}, {"batch_size": True}],
    ids=str,
)
def test_unknown_keys_and_wrong_types_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(AutoPruneError):
        RecoveryRecipe.from_dict(values)


def test_an_unknown_scope_names_the_nearest() -> None:
    with pytest.raises(AutoPruneError, match="did you mean 'projector'"):
        RecoveryRecipe(scope="projecter")


def test_steps_and_the_cap() -> None:
    recipe = RecoveryRecipe(sample_passes=100, batch_size=16)
    assert recipe.steps == 7
    assert recipe.capped(32).steps == 2
    assert recipe.capped(None) == recipe.capped(1000) == recipe
    assert RecoveryRecipe(scope="none", sft=0.0).steps == 0


def test_guidance_follows_the_paper() -> None:
    light, middle, heavy = (recommended(share, 10_000) for share in (0.15, 0.3, 0.6))
    assert (light.scope, light.weights, light.data_fraction) == ("projector", {"sft": 1.0}, 0.05)
    assert (middle.scope, middle.weights) == ("lora", {"sft": 0.5, "hidden": 0.5})
    assert (middle.data_fraction, middle.sample_passes) == (0.05, 500)
    assert (heavy.data_fraction, heavy.sample_passes) == (1.0, 10_000)
    assert recommended(0.6, 10_000, scope="full", max_recovery_samples=64).sample_passes == 64


def test_learning_rates_are_those_measured_and_published() -> None:
    assert default_learning_rate(0.1) == pytest.approx(2e-4)
    assert default_learning_rate(0.5) == pytest.approx(5e-4)
    assert default_learning_rate(0.9) == pytest.approx(1e-3)
    assert default_learning_rate(0.5, "lora") == pytest.approx(4 * default_learning_rate(0.5))
    rates = [default_learning_rate(share / 20) for share in range(20)]
    assert rates == sorted(rates)
    assert (
        default_learning_rate(0.2, "full", 4096) < 2e-5 < default_learning_rate(0.7, "full", 4096)
    )
    with pytest.raises(AutoPruneError):
        default_learning_rate(1.0)
