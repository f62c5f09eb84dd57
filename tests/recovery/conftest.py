"""A tiny LLaVA with random weights, eight questions an image, and teachers for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from autoprune.data.encoding import EncodedSet, encode
from autoprune.recovery.teacher import CachedTeacher, TeacherCache, build_teacher
from autoprune.zoo.model import build_config, build_processor
from autoprune.zoo.splits import load_split

SAMPLES = 40


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_model(seed: int = 0, **text: Any) -> Any:
    from transformers import LlavaForConditionalGeneration

    config = build_config()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    for name, value in {**sizes, **heads, **text}.items():
        setattr(config.text_config, name, value)
    config.text_config.layer_types = None
    config.vision_config.num_hidden_layers = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(config).eval()


@pytest.fixture
def make_model() -> Callable[..., Any]:
    return tiny_model


@pytest.fixture(scope="session")
def encoded() -> EncodedSet:
    return encode(load_split("train", SAMPLES), build_processor())


@pytest.fixture(scope="session")
def rows() -> EncodedSet:
    return encode(load_split("train", 12), build_processor(), packed=False)


@pytest.fixture(scope="session")
def cache(encoded: EncodedSet) -> TeacherCache:
    return build_teacher(tiny_model(), encoded)


@pytest.fixture
def teacher(cache: TeacherCache) -> CachedTeacher:
    return CachedTeacher(cache)
