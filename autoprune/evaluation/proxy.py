"""A cheap proxy for retention: how far the model's answers are from the dense model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from autoprune.data.encoding import EncodedSet, batches
from autoprune.errors import AutoPruneError
from autoprune.evaluation.scores import EvaluationFailed
from autoprune.models.reading import answer_states, batch_features
from autoprune.models.vision import head


@torch.no_grad()
def kl_to_dense(
    model: Any,
    encoded: EncodedSet,
    indices: Sequence[int] | np.ndarray,
    teacher_hidden: np.ndarray | torch.Tensor,
    teacher_head: np.ndarray | torch.Tensor,
    *,
    teacher_bias: np.ndarray | None = None,
    features: np.ndarray | torch.Tensor | None = None,
    batch_size: int = 16,
) -> float:
    """Return mean KL(dense || model) over answer tokens, in nats a token; no lmms-eval.

    Needs neither the dense model nor its logits: these are its head times its cached states.

    Args:
        model: what is measured.
        encoded: questions and their answers.
        indices: rows of ``encoded`` to measure on.
        teacher_hidden: ``[answer tokens of the whole set, hidden]``, the dense model's final-norm
            states where each answer token is predicted, in the order of ``answer_offsets``.
        teacher_head: ``[vocabulary, hidden]``, the dense model's output embedding.
        teacher_bias: ``[vocabulary]``, the bias of that embedding, where it has one.
        features: ``[images, tokens, dim]``, the projector's inputs; None computes them.
        batch_size: rows a batch.

    Raises:
        EvaluationFailed: the model's divergence is not finite.
        AutoPruneError: states or head do not fit the encoded set or the model.
    """
    if len(teacher_hidden) != encoded.num_answer_tokens:
        raise AutoPruneError(
            f"{len(teacher_hidden)} dense states for {encoded.num_answer_tokens} answer tokens: "
            "cache them from the same encoded set"
        )
    device = next(model.parameters()).device
    if isinstance(teacher_head, np.ndarray):
        teacher_head = torch.from_numpy(teacher_head.copy())  # shared arrays are read-only
    dense_head = teacher_head.to(device, torch.float32)
    bias = 0.0 if teacher_bias is None else torch.tensor(teacher_bias).to(device, torch.float32)
    total, count = 0.0, 0
    output = head(model)
    for batch in batches(encoded, indices, batch_size, device, pixels=features is None):
        states = answer_states(model, batch, batch_features(model, batch, features))
        own = output(states).float().log_softmax(dim=-1)
        cached = torch.as_tensor(teacher_hidden[batch.answers.cpu().numpy()])
        dense = (cached.to(device, torch.float32) @ dense_head.T + bias).log_softmax(dim=-1)
        if dense.shape != own.shape:
            raise AutoPruneError(
                f"the dense head has {dense.shape[-1]} tokens and the model {own.shape[-1]}: "
                "compare models of one vocabulary"
            )
        total += float((dense.exp() * (dense - own)).sum(dim=-1).double().sum())
        count += len(own)
    if not np.isfinite(total):
        raise EvaluationFailed("the divergence from the dense model is not finite: it has diverged")
    return total / count
