"""The contract that every recovery loss keeps, and each one against its textbook formula."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from autoprune.errors import AutoPruneError
from autoprune.recovery.losses import LOSSES, Needs, mix, needs_of
from autoprune.testing.losses import check_loss, made_answers


def test_sft_is_cross_entropy() -> None:
    answers = made_answers()
    assert answers.logits is not None
    expected = -answers.logits.log_softmax(-1)[torch.arange(7), answers.targets]
    torch.testing.assert_close(LOSSES["sft"].per_token(answers), expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_kl_in_both_directions(temperature: float) -> None:
    answers = dataclasses.replace(made_answers(), temperature=temperature)
    assert answers.logits is not None
    assert answers.teacher_logits is not None
    student = (answers.logits / temperature).softmax(-1)
    teacher = (answers.teacher_logits / temperature).softmax(-1)
    forward = (teacher * (teacher / student).log()).sum(-1) * temperature**2
    reverse = (student * (student / teacher).log()).sum(-1) * temperature**2
    torch.testing.assert_close(LOSSES["kl"].per_token(answers), forward)
    torch.testing.assert_close(LOSSES["reverse_kl"].per_token(answers), reverse)


def test_hidden_is_relative_to_the_teacher() -> None:
    answers = made_answers()
    assert answers.teacher_hidden is not None
    zero = dataclasses.replace(answers, hidden=torch.zeros_like(answers.hidden))
    torch.testing.assert_close(LOSSES["hidden"].per_token(zero), torch.ones(7))
    larger = dataclasses.replace(
        answers, hidden=answers.hidden * 100, teacher_hidden=answers.teacher_hidden * 100
    )
    torch.testing.assert_close(
        LOSSES["hidden"].per_token(larger), LOSSES["hidden"].per_token(answers)
    )


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_contract(name: str) -> None:
    check_loss(LOSSES[name])


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "hidden"])
def test_a_perfect_student_has_no_distance(name: str) -> None:
    answers = made_answers()
    assert answers.teacher_hidden is not None
    perfect = dataclasses.replace(
        answers, hidden=answers.teacher_hidden, logits=answers.teacher_logits
    )
    torch.testing.assert_close(LOSSES[name].per_token(perfect), torch.zeros(7))


def test_a_mix_is_the_weighted_sum() -> None:
    answers = made_answers()
    weights = {"sft": 0.5, "kl": 0.25, "hidden": 2.0}
    total, parts = mix(weights, answers)
    torch.testing.assert_close(total, sum(parts[n] * w for n, w in weights.items()))
    assert set(parts) == set(weights)


def test_needs_are_joined_and_unknown_names_refused() -> None:
    assert needs_of({"sft": 1.0}) == Needs.LOGITS
    assert needs_of({"hidden": 1.0}) == Needs.TEACHER_HIDDEN
    assert needs_of({"sft": 1.0, "hidden": 1.0}) == Needs.LOGITS | Needs.TEACHER_HIDDEN
    with pytest.raises(AutoPruneError, match="did you mean 'hidden'"):
        needs_of({"hiden": 1.0})
