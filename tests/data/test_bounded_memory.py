"""A user's pictures are read when they are needed: what is held does not grow with them."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.families import CASES
from support.user_data import llava

from autoprune.data.encoding import EncodedSet, batches, encode_for
from autoprune.data.images import LazyTiles, MadeAgain
from autoprune.data.sources.user import UserSet, open_data, read_data

LIMIT = 100_000


def peak(work: Callable[[], Any]) -> tuple[Any, int]:
    gc.collect()
    tracemalloc.start()
    try:
        made = work()
        return made, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def train(folder: Path, count: int) -> UserSet:
    path = llava(folder, count)
    return open_data(read_data([str(path)], folder / "images")).open("train")


@pytest.mark.parametrize("name", ["llava-llama", "gemma3-gemma3_text"])
def test_pixels_beyond_the_limit_cost_no_memory(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    config, processor = case.config(), case.processor()
    samples = train(tmp_path, 240)

    def encoded(keep: int | None) -> EncodedSet:
        return encode_for(config, samples, processor, pixel_dtype=np.float32, keep=keep)

    encoded(LIMIT)  # what is loaded once
    all_kept, most = peak(lambda: encoded(None))
    lean, least = peak(lambda: encoded(LIMIT))
    pixels = 3 * 32 * 32 * 4 * 168
    assert most > pixels
    assert least < most - pixels + 3 * LIMIT
    held = lean.pixel_values if lean.pixel_values is not None else lean.shown
    assert isinstance(held, LazyTiles | MadeAgain)
    assert held.nbytes == 0

    def read() -> int:
        return sum(len(batch.images) for batch in batches(lean, range(len(lean)), 2))

    images, read_peak = peak(read)
    assert images == len(held)
    assert read_peak < pixels / 4
    assert lean.input_ids.tolist() == all_kept.input_ids.tolist()


def test_an_index_is_all_that_is_held(tmp_path: Path) -> None:
    """A few dozen bytes a row, of which each takes some hundred in its file."""
    path = llava(tmp_path, 2000)
    samples, _ = peak(lambda: open_data(read_data([str(path)], tmp_path / "images")))
    source = samples.sources[0]
    arrays = [value for value in vars(source.index).values() if isinstance(value, np.ndarray)]
    held = sum(array.nbytes for array in [*arrays, source.file.spans])
    assert held < 80 * 2000
    assert path.stat().st_size > 150 * 2000
