"""Given answers, of every family: a batch says what the model's own loss says of each alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.families import CASES
from support.questions import SAMPLES, alone, read

from autoprune.evaluation.likelihood import Given, losses
from autoprune.models.families import wrapper_of

WRAPPERS = {name.split("-")[0]: name for name in CASES}
"""One case of each wrapper."""


@torch.no_grad()
def own_loss(model: Any, processor: Any, sample: Any, turn: Any, vision: bool) -> float:
    """The mean loss of an answer's tokens but its end, of the model's own forward."""
    inputs, said = alone(processor, sample, turn, vision)
    logits = model(**inputs).logits[0].float()
    ids = inputs["input_ids"][0]
    start = len(ids) - said
    stop = len(ids) - 1 if said > 1 else len(ids)
    return float(torch.nn.functional.cross_entropy(logits[start - 1 : stop - 1], ids[start:stop]))


@pytest.mark.parametrize("name", sorted(WRAPPERS.values()))
def test_a_batch_says_what_each_says_alone(name: str) -> None:
    model, processor, _ = read(name)
    vision = wrapper_of(model.config).projector is not None
    pairs = [(sample, turn) for sample in SAMPLES for turn in sample.turns]
    asked = [
        Given(t.question, t.answer, lambda s=s: [s.image] if vision else [])  # type: ignore[misc]
        for s, t in pairs
    ]
    found = [loss for loss, _ in losses(processor, model, asked, batch_size=3)]
    expected = [own_loss(model, processor, s, t, vision) for s, t in pairs]
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
