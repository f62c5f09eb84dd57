"""A few samples for the tiny models: random images, one to three turns, one without image."""

from __future__ import annotations

import numpy as np
from PIL import Image

from autoprune.data.encoding import EncodedSet, encode
from autoprune.data.samples import Sample, Turn
from support.models import tiny_processor


def sample_set(count: int = 4, *, packed: bool = True) -> EncodedSet:
    rng = np.random.default_rng(0)
    samples = []
    for i in range(count):
        image = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
        turns = [
            Turn("what is the colour of the digit ?", ["red", "blue"][i % 2], "colour"),
            Turn(f"how many {i} ?", str(i + 2), "count"),
            Turn("what is left ?", "green yes", "two"),
        ]
        samples.append(Sample(str(i), image, tuple(turns[: 1 + i % 3])))
    samples.append(Sample("text", None, (Turn("what is left of the digit ?", "no", "text"),)))
    return encode(samples, tiny_processor(), packed=packed)
