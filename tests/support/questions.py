"""A few questions about images of several sizes, and a model asked them one at a time."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from autoprune.data.chat import render_turns
from autoprune.data.encoding import EncodedSet, batches, encode_for
from autoprune.data.samples import Sample, Turn
from autoprune.models.reading import answer_states, batch_features
from autoprune.models.vision import head
from support.families import CASES, Inputs, build_model


def _image(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


SAMPLES = (
    Sample(
        "square",
        _image(40, 40),
        (
            Turn("what is the digit ?", "3", "one"),
            Turn("what colour is the left digit ?", "red", "two"),
        ),
    ),
    Sample("wide", _image(30, 70), (Turn("how many ?", "7", "short"),)),
    Sample("high", _image(60, 33), (Turn("is 3 on the left ?", "yes no", "long"),)),
)


@cache
def read(name: str) -> tuple[Any, Any, EncodedSet]:
    """A random model of a case, its processor, and the samples as the model reads them.

    Shared by tests: leave the model as it is, or copy it.
    """
    case = CASES[name]
    model, processor = build_model(case.config()), case.processor()
    return model, processor, encode_for(model.config, SAMPLES, processor, pixel_dtype=np.float32)


def alone(processor: Any, sample: Sample, turn: Turn, vision: bool) -> tuple[Inputs, int]:
    """One question with its answer as its processor makes it, and the answer's tokens."""
    text = render_turns(processor, [turn], vision)[turn.question, turn.answer]
    images = {"images": [[sample.image]]} if vision else {}
    made = processor(text=[text.text], return_tensors="pt", **text.options(processor), **images)
    return {k: v for k, v in made.items() if k != "labels"}, text.length - text.answer_start


@torch.no_grad()
def states_alone(model: Any, processor: Any, vision: bool) -> torch.Tensor:
    """Final states that predict answer tokens, of the model's own forward on each question.

    The head makes the model's own logits of them.
    """
    found = []
    for sample in SAMPLES:
        for turn in sample.turns:
            inputs, said = alone(processor, sample, turn, vision)
            hidden = getattr(model, model.base_model_prefix)(**inputs).last_hidden_state[0]
            logits = model(**inputs).logits[0]
            torch.testing.assert_close(head(model)(hidden), logits, rtol=1e-5, atol=1e-5)
            found.append(hidden[-said - 1 : -1])
    return torch.cat(found)


@torch.no_grad()
def states(model: Any, encoded: EncodedSet, size: int = 8) -> torch.Tensor:
    """Final states that predict answer tokens, of an encoded set in batches."""
    found = [
        answer_states(model, batch, batch_features(model, batch))
        for batch in batches(encoded, np.arange(len(encoded)), size)
    ]
    return torch.cat(found)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference, against the largest value."""
    return float((one - other).abs().max() / other.abs().max())
