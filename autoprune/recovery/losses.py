"""Recovery losses on answer tokens.

A loss maps the N answer tokens of a batch to N values. The loop sums them and divides by the
answer tokens of the whole update, so a loss neither knows nor depends on padding, image
tokens, the length of sequences or how an update is split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Flag, auto

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.plugins import LOSSES as GROUP
from autoprune.plugins import Table


class Needs(Flag):
    """What a loss reads beyond the student's states, so that nothing else is computed."""

    NOTHING = 0
    LOGITS = auto()
    TEACHER_HIDDEN = auto()
    TEACHER_LOGITS = auto()


@dataclass(frozen=True)
class Answers:
    """The answer tokens of a batch, at the positions that predict them.

    Args:
        hidden: student's states after its final norm, [N, hidden].
        targets: the answer tokens, [N].
        logits: student's logits, [N, vocabulary], where a loss needs them.
        teacher_hidden: the dense model's states, [N, hidden], where needed.
        teacher_logits: the dense model's logits, [N, vocabulary], where needed.
        temperature: of the KL losses.
    """

    hidden: Tensor
    targets: Tensor
    logits: Tensor | None = None
    teacher_hidden: Tensor | None = None
    teacher_logits: Tensor | None = None
    temperature: float = 2.0


@dataclass(frozen=True)
class Loss:
    """A named loss: what it needs, and its value for each answer token, [N] in float32."""

    needs: Needs
    per_token: Callable[[Answers], Tensor]


def sft(answers: Answers) -> Tensor:
    """Cross entropy of the answer, nats per token."""
    assert answers.logits is not None
    return F.cross_entropy(answers.logits.float(), answers.targets, reduction="none")


def forward_kl(answers: Answers) -> Tensor:
    """KL(teacher ‖ student) · T² at temperature T, nats per token (Hinton et al. 2015)."""
    student, teacher = _log_probabilities(answers)
    return _kl(teacher, student) * answers.temperature**2


def reverse_kl(answers: Answers) -> Tensor:
    """KL(student ‖ teacher) · T² at temperature T, nats per token (MiniLLM, Gu et al. 2024)."""
    student, teacher = _log_probabilities(answers)
    return _kl(student, teacher) * answers.temperature**2


def hidden(answers: Answers) -> Tensor:
    """Squared distance to the teacher's final-norm state over that state's mean square.

    0 is equality and 1 what a student that answers zero gets, for every model: the weight of
    this loss means the same everywhere. Each token is normalised by its own teacher state, so
    that the value depends neither on the batch nor on how an update is split.
    """
    assert answers.teacher_hidden is not None
    teacher = answers.teacher_hidden.float()
    distance = (answers.hidden.float() - teacher).square().mean(-1)
    return distance / teacher.square().mean(-1).clamp_min(1e-12)


LOSSES: Table[Loss] = Table(
    GROUP,
    {
        "sft": Loss(Needs.LOGITS, sft),
        "kl": Loss(Needs.LOGITS | Needs.TEACHER_LOGITS, forward_kl),
        "reverse_kl": Loss(Needs.LOGITS | Needs.TEACHER_LOGITS, reverse_kl),
        "hidden": Loss(Needs.TEACHER_HIDDEN, hidden),
    },
    lambda row: isinstance(row, Loss),
    "a recovery.losses.Loss",
)
"""Recovery losses by name; packages may add their own (see ``plugins``)."""


def needs_of(weights: Mapping[str, float]) -> Needs:
    """Return what a weighted mix needs.

    Raises:
        AutoPruneError: for a loss that is not in :data:`LOSSES`.
    """
    needs = Needs.NOTHING
    for name in weights:
        if name not in LOSSES:
            raise AutoPruneError(f"recovery loss {name!r} is unknown{did_you_mean(name, LOSSES)}")
        needs |= LOSSES[name].needs
    return needs


def mix(weights: Mapping[str, float], answers: Answers) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum a weighted mix over the answer tokens.

    Returns:
        The weighted sum over tokens (a scalar with its graph), and each loss's own
        unweighted sum (detached, for logging).
    """
    parts = {name: LOSSES[name].per_token(answers).sum() for name in weights}
    total = torch.stack([parts[name] * weight for name, weight in weights.items()]).sum()
    return total, {name: part.detach() for name, part in parts.items()}


def _log_probabilities(answers: Answers) -> tuple[Tensor, Tensor]:
    assert answers.logits is not None
    assert answers.teacher_logits is not None
    student = F.log_softmax(answers.logits.float() / answers.temperature, dim=-1)
    teacher = F.log_softmax(answers.teacher_logits.float() / answers.temperature, dim=-1)
    return student, teacher


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of log-probabilities, over the last axis."""
    return F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
