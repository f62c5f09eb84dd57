"""Scores through lmms-eval against a plain forward pass over questions and their answers."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.data.encoding import batches, encode
from autoprune.evaluation.bridge import Evaluator
from autoprune.evaluation.materials import materialise
from autoprune.evaluation.tasks import resolve_tasks
from autoprune.zoo import DigitSet, embedded_path, load_split


@torch.no_grad()
def forward_accuracy(model: Any, samples: DigitSet, processor: Any) -> dict[str, float]:
    """Share of questions whose answer tokens and end token are all the model's argmax.

    One question a row, the model's own forward on pixels: nothing of the packed path. A greedy
    answer equals the reference just where this holds.
    """
    encoded = encode(samples, processor, packed=False)
    right = np.ones(len(encoded), dtype=bool)
    for batch in batches(encoded, range(len(encoded)), 32):
        logits = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            pixel_values=batch.pixel_values,
        ).logits
        at = batch.answer_index
        wrong = logits[at.rows, at.cols].argmax(-1) != at.targets
        right[batch.rows[at.rows[wrong]].numpy()] = False
    of_family = defaultdict(list)
    turns = [turn for sample in samples for turn in sample.turns]
    for turn, value in zip(turns, right, strict=True):
        of_family[f"digits_{turn.source}"].append(value)
    return {name: float(np.mean(values)) for name, values in of_family.items()}


def test_half_taught(half_taught: Any, samples: DigitSet, processor: Any, task_dir: Path) -> None:
    scores = Evaluator(processor, task_dir, resolve_tasks()).evaluate(half_taught)
    assert scores.by_task == pytest.approx(forward_accuracy(half_taught, samples, processor))


@pytest.mark.skipif(
    not (embedded_path() / "model.safetensors").exists(), reason="the embedded model is not trained"
)
def test_embedded_model(tmp_path: Path) -> None:
    from autoprune.models.loading import load_model

    loaded = load_model("embedded", named={"embedded": embedded_path})
    samples = load_split("search", 48)
    specs = resolve_tasks()
    evaluator = Evaluator(loaded.processor, materialise(samples, specs, tmp_path), specs)
    scores = evaluator.evaluate(loaded.model, evaluator.features(loaded.model))
    direct = forward_accuracy(loaded.model, samples, loaded.processor)
    assert scores.by_task == pytest.approx(direct)
    assert scores.average > 0.85
