"""A tiny LLaVA that has learned some of its questions, and a small set to ask it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune.data.encoding import EncodedSet, batches, encode
from autoprune.evaluation.materials import materialise
from autoprune.evaluation.tasks import resolve_tasks
from autoprune.models.vision import decode, embed, head, vision_features
from autoprune.zoo import DigitSet, build_config, build_processor, load_split


@pytest.fixture(scope="session")
def processor() -> Any:
    return build_processor()


@pytest.fixture(scope="session")
def samples() -> DigitSet:
    return load_split("search", 24)


@pytest.fixture(scope="session")
def task_dir(samples: DigitSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return materialise(samples, resolve_tasks(), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def encoded(samples: DigitSet, processor: Any) -> EncodedSet:
    return encode(samples, processor)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    return make_tiny


def make_tiny(seed: int = 0) -> Any:
    """A fresh, untaught model."""
    from transformers import LlavaForConditionalGeneration

    config = build_config()
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 32, 48, 2
    text.num_attention_heads = text.num_key_value_heads = 2
    config.vision_config.num_hidden_layers = 1
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def half_taught(encoded: EncodedSet) -> Any:
    """Knows some answers and their ends, and is wrong about others; never change it."""
    model = make_tiny()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(12):
        for batch in batches(encoded, range(len(encoded)), 8):
            shown = vision_features(model, batch.pixel_values)
            hidden = decode(
                model,
                embed(model, batch.input_ids, shown),
                batch.attention_mask,
                batch.position_ids,
            )
            at = batch.answer_index
            logits = head(model)(hidden[at.rows, at.cols])
            # The end token is half learned too, so that some answers run on.
            loss = torch.nn.functional.cross_entropy(logits, at.targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()
