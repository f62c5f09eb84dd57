"""What every recovery loss keeps to."""

from __future__ import annotations

import dataclasses

import torch

from autoprune.recovery.losses import Answers, Loss, Needs

FIELD_OF = {
    Needs.LOGITS: "logits",
    Needs.TEACHER_HIDDEN: "teacher_hidden",
    Needs.TEACHER_LOGITS: "teacher_logits",
}
"""What a loss has to ask for, and where it then finds it."""


def made_answers(tokens: int = 7, hidden: int = 6, vocabulary: int = 11) -> Answers:
    """Return the answer tokens of a made-up batch, the same always."""
    draw = torch.Generator().manual_seed(0)
    return Answers(
        hidden=torch.randn(tokens, hidden, generator=draw),
        targets=torch.randint(vocabulary, (tokens,), generator=draw),
        logits=torch.randn(tokens, vocabulary, generator=draw),
        teacher_hidden=torch.randn(tokens, hidden, generator=draw),
        teacher_logits=torch.randn(tokens, vocabulary, generator=draw),
    )


def check_loss(loss: Loss) -> None:
    """Check a recovery loss on a made-up batch.

    It returns one finite ``float32`` for each token, also of bfloat16 states; reads nothing that it
    does not ask for; a token's value depends on no other token; and the student learns from it.

    Raises:
        AssertionError: naming the promise that is broken.
    """
    whole = _asked_for(loss, made_answers())
    tokens = len(whole.targets)
    try:
        value = loss.per_token(whole)
    except (AttributeError, TypeError) as error:
        raise AssertionError(f"reads what its needs ({loss.needs}) do not ask for") from error
    assert value.shape == (tokens,), f"{tuple(value.shape)}, and not one value a token"
    assert torch.isfinite(value).all(), "not finite"
    halved = loss.per_token(_mapped(whole, lambda tensor: tensor.bfloat16()))
    assert halved.dtype == torch.float32, f"{halved.dtype} of bfloat16 states, and not float32"
    parts = [
        loss.per_token(_mapped(whole, lambda tensor, rows=rows: tensor[rows], every=True))
        for rows in (slice(0, 3), slice(3, tokens))
    ]
    assert torch.allclose(value, torch.cat(parts), atol=1e-5), "a token's value depends on others"
    hidden = whole.hidden.clone().requires_grad_()
    logits = None if whole.logits is None else whole.logits.clone().requires_grad_()
    loss.per_token(dataclasses.replace(whole, hidden=hidden, logits=logits)).sum().backward()
    moved = [t.grad for t in (hidden, logits) if t is not None and t.grad is not None]
    assert any(bool(grad.abs().sum() > 0) for grad in moved), "no gradient reaches the student"
    assert all(bool(torch.isfinite(grad).all()) for grad in moved), "a gradient is not finite"


def _asked_for(loss: Loss, answers: Answers) -> Answers:
    """Return a batch that holds what a loss needs and nothing else."""
    gone = {field: None for need, field in FIELD_OF.items() if need not in loss.needs}
    return dataclasses.replace(answers, **gone)  # type: ignore[arg-type]


def _mapped(answers: Answers, change: object, *, every: bool = False) -> Answers:
    """Return a batch with its floating tensors changed, or with ``every`` one."""
    assert callable(change)
    changed = {
        field.name: change(value)
        for field in dataclasses.fields(answers)
        if isinstance(value := getattr(answers, field.name), torch.Tensor)
        and (every or value.is_floating_point())
    }
    return dataclasses.replace(answers, **changed)
