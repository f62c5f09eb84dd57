"""Budgets: what is read, and the one line for what cannot be."""

from __future__ import annotations

import pytest
from support.models import tiny_llava_config
from transformers import LlamaConfig, LlavaConfig

from autoprune.cost.budget import parse_budget
from autoprune.errors import AutoPruneError
from autoprune.models.shape import spec_of

LLAVA_7B = spec_of(LlavaConfig(text_config=LlamaConfig(vocab_size=32064)))
TINY = spec_of(tiny_llava_config())


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("3B-params", 3_000_000_000),
        ("850M-params", 850_000_000),
        ("1.4M-params", 1_400_000),
        ("500k-params", 500_000),
        ("123456-params", 123_456),
        ("60%", LLAVA_7B.total_params * 60 // 100),
        (" 12.5 % ", LLAVA_7B.total_params * 125 // 1000),
    ],
)
def test_good_budgets(text: str, params: int) -> None:
    assert parse_budget(text, LLAVA_7B).params == params


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("3GiB-bytes", 3 * 2**30),
        ("1.5GB-bytes", 1_500_000_000),
        ("512 MiB-bytes", 2**29),
        ("4096B-bytes", 4096),
    ],
)
def test_budgets_in_bytes(text: str, limit: int) -> None:
    budget = parse_budget(text, LLAVA_7B)
    assert budget.bytes == limit
    # Without quantisation that is so many parameters, in float32.
    assert budget.params == limit // 4
    assert parse_budget("60%", LLAVA_7B).bytes is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("3B", "no unit"),
        ("60", "no unit"),
        ("3B-parms", "unknown unit 'parms' .did you mean 'params'"),
        ("6GiB-memry", "unknown unit 'memry' .did you mean 'memory'"),
        ("6Gib-memory", "unknown scale 'Gib'"),
        ("40m-latency", "unknown scale 'm': use us, ms, s"),
        ("3Q-params", "unknown scale 'Q'"),
        ("60M%", "mixes"),
        ("-60%", "not above zero"),
        ("-3B-params", "not above zero"),
        ("0%", "not above zero"),
        ("100%", "less than 100%"),
        ("140%", "less than 100%"),
        ("8B-params", "has 7.06B parameters"),
        ("7063427072-params", "not smaller than the dense model"),
        ("", "cannot be read"),
        ("many", "cannot be read"),
        ("1.2.3M-params", "one number"),
        ("0.1-params", "less than one"),
        ("$5-params", "cannot be read"),
        ("3-bytes", "unknown scale ''"),
        ("3gib-bytes", "unknown scale 'gib'.*use B, KiB, MiB, GiB"),
        ("30GiB-bytes", "in float32 26.3GiB"),
        ("3B-bytes", "less than one parameter"),
        ("3GiB", "no unit"),
    ],
)
def test_bad_budgets_take_one_line(text: str, says: str) -> None:
    with pytest.raises(AutoPruneError, match=says) as caught:
        parse_budget(text, LLAVA_7B)
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)


def test_beyond_the_embedded_model_asks_for_one() -> None:
    with pytest.raises(AutoPruneError, match=r"embedded model.*--model") as caught:
        parse_budget("3B-params", TINY, embedded=True)
    assert f"{TINY.total_params:,}" in str(caught.value)


def test_budgets_of_running_leave_parameters_free() -> None:
    memory, latency = (parse_budget(text, LLAVA_7B) for text in ("6GiB-memory", "40ms-latency"))
    assert (memory.memory, memory.latency, memory.bytes) == (6 * 2**30, None, None)
    assert (latency.memory, latency.latency) == (None, pytest.approx(0.04))
    assert memory.params == latency.params == LLAVA_7B.total_params
