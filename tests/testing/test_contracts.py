"""The contracts refuse what breaks them; each broken row is one that was easy to write."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.cost.latency import COST_MODELS
from autoprune.pruning.scores import CRITERIA, Importance
from autoprune.recovery.losses import LOSSES, Loss, Needs
from autoprune.search.sampling.samplers import SAMPLERS
from autoprune.testing import check_cost_model, check_criterion, check_loss, check_sampler


def _magnitude(importance: Importance, kind: str, text_weight: float) -> np.ndarray:
    found: np.ndarray = getattr(importance, f"magnitude_{kind}")
    return found


def _in_place(importance: Importance, kind: str, text_weight: float) -> np.ndarray:
    found = _magnitude(importance, kind, text_weight)
    found *= 2
    return found


def _image_only(importance: Importance, kind: str, text_weight: float) -> np.ndarray:
    found: np.ndarray = getattr(importance, f"activation_{kind}")[..., 0]
    return found


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_our_criteria_keep_theirs(name: str) -> None:
    check_criterion(CRITERIA[name])


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        (lambda i, k, t: _magnitude(i, k, t)[:, 0], "and not"),
        (lambda i, k, t: -_magnitude(i, k, t), "below 0"),
        (lambda i, k, t: _magnitude(i, k, t).astype(np.float32), "float32"),
        (lambda i, k, t: np.ones_like(_magnitude(i, k, t)), "alike"),
        (lambda i, k, t: np.random.default_rng().random(_magnitude(i, k, t).shape), "second time"),
        (lambda i, k, t: np.nan_to_num(_magnitude(i, k, t)), "lacks"),
        (_image_only, "no sample had an image"),
        (lambda i, k, t: _magnitude(i, k, t).tolist(), "no array"),
    ],
)
def test_a_broken_criterion_is_refused(criterion: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_criterion(criterion)


def test_a_criterion_that_changes_what_it_is_given_is_refused() -> None:
    with pytest.raises(ValueError, match="read-only"):
        check_criterion(_in_place)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (Loss(Needs.LOGITS, lambda a: LOSSES["sft"].per_token(a).mean()), "one value a token"),
        (Loss(Needs.NOTHING, lambda a: a.logits.float().sum(-1)), "do not ask for"),
        (
            Loss(Needs.LOGITS, lambda a: a.logits.float().sum(-1) / a.logits.float().std()),
            "depends on others",
        ),
        (Loss(Needs.LOGITS, lambda a: a.logits.sum(-1)), "bfloat16"),
        (Loss(Needs.LOGITS, lambda a: a.logits.float().sum(-1) / 0.0), "not finite"),
        (
            Loss(
                Needs.TEACHER_HIDDEN,
                lambda a: (a.teacher_hidden.float() + a.hidden.float() * 0).sum(-1),
            ),
            "no gradient",
        ),
    ],
)
def test_a_broken_loss_is_refused(loss: Loss, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_loss(loss)


def test_a_sampler_that_does_not_heed_its_seed_is_refused() -> None:
    random = SAMPLERS["random"]
    fixed = dataclasses.replace(random, build=lambda seed, trials: random.build(0, trials))
    with pytest.raises(AssertionError):
        check_sampler(fixed)
    torch.manual_seed(0)
    unseeded = dataclasses.replace(
        random, build=lambda seed, trials: random.build(int(torch.randint(9999, ())), trials)
    )
    with pytest.raises(AssertionError, match="equal seeds propose differently"):
        check_sampler(unseeded)


@pytest.mark.parametrize("name", sorted(COST_MODELS))
def test_our_cost_models_keep_theirs(name: str) -> None:
    check_cost_model(COST_MODELS[name])


def _roofline(*asked: Any) -> float:
    return float(COST_MODELS["roofline"](*asked))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda *asked: "fast", "no number"),
        (lambda *asked: float("nan"), "no time above 0"),
        (lambda *asked: 0.0, "no time above 0"),
        (lambda *asked: float(np.random.default_rng().random()), "asked again"),
        (lambda *asked: _roofline(*asked) + (asked[1] is None), "than the dense model"),
        (lambda *asked: 1.0, "fewer heads take no less"),
        (lambda *asked: 1e-3 / _roofline(*asked), "fewer heads take longer"),
        (lambda *asked: _roofline(*asked) / asked[3].context, "seen in less time"),
    ],
)
def test_a_broken_cost_model_is_refused(model: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_cost_model(model)
