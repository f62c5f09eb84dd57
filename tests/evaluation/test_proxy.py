"""The proxy against a KL worked out from full logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from autoprune.data.encoding import EncodedSet, collate
from autoprune.errors import AutoPruneError
from autoprune.evaluation.proxy import kl_to_dense
from autoprune.evaluation.scores import EvaluationFailed
from autoprune.models.vision import decode, embed, head, vision_features

Tiny = Callable[..., Any]


@torch.no_grad()
def states(model: Any, encoded: EncodedSet) -> torch.Tensor:
    """Final states at all answer tokens of the set, in one batch."""
    batch = collate(encoded, range(len(encoded)))
    shown = vision_features(model, batch.pixel_values)
    hidden = decode(
        model, embed(model, batch.input_ids, shown), batch.attention_mask, batch.position_ids
    )
    assert torch.equal(batch.answers, torch.arange(encoded.num_answer_tokens))
    return hidden[batch.answer_index.rows, batch.answer_index.cols]


def test_against_full_logits(tiny: Tiny, half_taught: Any, encoded: EncodedSet) -> None:
    dense, weight = states(half_taught, encoded), head(half_taught).weight.detach()
    other = tiny(seed=4)
    own = states(other, encoded) @ head(other).weight.detach().T
    log_p = (dense @ weight.T).double().log_softmax(-1)
    log_q = own.double().log_softmax(-1)
    full = (log_p.exp() * (log_p - log_q)).sum(-1)
    everything = range(len(encoded))
    measured = kl_to_dense(other, encoded, everything, dense.numpy(), weight.numpy(), batch_size=7)
    assert measured == pytest.approx(float(full.mean()), rel=1e-4)
    assert measured > 0.1
    some = [5, 2]
    rows = torch.cat(
        [torch.arange(encoded.answer_offsets[i], encoded.answer_offsets[i + 1]) for i in some]
    )
    part = kl_to_dense(other, encoded, some, dense.half().numpy(), weight)
    assert part == pytest.approx(float(full[rows].mean()), rel=1e-2)


def test_the_dense_model_is_at_zero(half_taught: Any, encoded: EncodedSet) -> None:
    dense, weight = states(half_taught, encoded), head(half_taught).weight.detach()
    assert kl_to_dense(half_taught, encoded, range(8), dense, weight) == pytest.approx(0, abs=1e-6)


def test_what_does_not_fit_is_refused(tiny: Tiny, half_taught: Any, encoded: EncodedSet) -> None:
    dense, weight = states(half_taught, encoded), head(half_taught).weight.detach()
    with pytest.raises(AutoPruneError, match="dense states for"):
        kl_to_dense(half_taught, encoded, range(8), dense[:-1], weight)
    with pytest.raises(AutoPruneError, match="one vocabulary"):
        kl_to_dense(half_taught, encoded, range(8), dense, weight[:-1])
    diverged = tiny()
    with torch.no_grad():
        diverged.get_decoder().norm.weight.fill_(float("nan"))
    with pytest.raises(EvaluationFailed):
        kl_to_dense(diverged, encoded, range(8), dense, weight)
