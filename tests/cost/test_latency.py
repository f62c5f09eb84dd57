"""The roofline by hand, and what is offered for plans that were found elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.families import CASES
from support.shapes import shape_config

from autoprune.cost.bytes import stored_bytes
from autoprune.cost.deployment import Deployment, deployment_of
from autoprune.cost.devices import Device, find_device
from autoprune.cost.estimate import estimate, shapes_of
from autoprune.cost.latency import measured, modelled_latency, rated
from autoprune.models.shape import BackboneSpec, LayerShape, spec_of


@pytest.fixture(scope="module")
def llava() -> tuple[Any, BackboneSpec]:
    config = shape_config("llava-1.5-7b")
    return config, spec_of(config)


SLOW = Device("slow", "", "board", 2**33, 1e9, {"float32": 1e18})


def test_reading_decides_where_arithmetic_is_free(llava: tuple[Any, BackboneSpec]) -> None:
    config, spec = llava
    prompt = deployment_of(config, 1000, 1)
    assert prompt.positions == 1000 + 576
    found = modelled_latency(spec, None, "bfloat16", prompt, SLOW)
    layers = 2 * spec.backbone_params
    cache = 2 * 2 * 32 * 4096 * prompt.positions
    head = 2 * 4096 * config.text_config.vocab_size
    assert found.seconds == pytest.approx((layers + cache + head) / 1e9)
    assert (found.kind, found.device, found.dtype) == ("modelled", "slow", "float32")


def test_arithmetic_decides_where_reading_is_free(llava: tuple[Any, BackboneSpec]) -> None:
    config, spec = llava
    fast = replace(SLOW, bandwidth=1e18, compute={"bfloat16": 1e12, "float32": 1e11})
    prompt = deployment_of(config, 1000, 1)
    # 32 layers of 202M weights, 4 x 4096 for each position's scores and sums, and the head.
    operations = 2 * 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32 * 4 * 4096 * prompt.positions
    operations += 2 * 4096 * config.text_config.vocab_size
    found = modelled_latency(spec, None, "bfloat16", prompt, fast)
    assert found.seconds == pytest.approx(operations / 1e12, rel=1e-3)
    assert modelled_latency(spec, None, "float32", prompt, fast).seconds > 9 * found.seconds


@pytest.mark.parametrize(
    ("device", "without", "dtype", "used"),
    [
        ("t4", "", "bfloat16", "float16"),
        ("apple-m1-8gb", "", "bfloat16", "float32"),
        ("jetson-orin-nano-8gb", "", "float32", "float32"),
        ("jetson-orin-nano-8gb", "float32", "float32", "bfloat16"),
        ("snapdragon-8-elite-12gb", "", "bfloat16", ""),
    ],
)
def test_which_rate_stands_in(device: str, without: str, dtype: str, used: str) -> None:
    found = find_device(device)
    rates = {name: rate for name, rate in found.compute.items() if name != without}
    assert rated(replace(found, compute=rates), dtype) == used


def test_fewer_bits_and_layers_are_faster(llava: tuple[Any, BackboneSpec]) -> None:
    config, spec = llava
    nano = find_device("jetson-orin-nano-8gb")
    gone = (*spec.layers[:16], *(LayerShape(0, 0, 0),) * 16)
    dense = estimate(spec, config, None, "bfloat16", nano, 1024)
    bits = estimate(spec, config, None, "int4-bf16", nano, 1024)
    half = estimate(spec, config, gone, "bfloat16", nano, 1024)
    assert not dense.fits
    assert bits.fits
    assert bits.latency.seconds < dense.latency.seconds / 2
    assert half.latency.seconds < 0.6 * dense.latency.seconds
    assert half.memory.cache * 2 == dense.memory.cache
    assert half.memory.weights == stored_bytes(spec, gone[:16], "bfloat16")
    # A 7B model in half precision on 68 GB/s: a fifth of a second at the least.
    assert 0.19 < dense.latency.seconds < 0.25


def test_overheads_add_up(llava: tuple[Any, BackboneSpec]) -> None:
    config, spec = llava
    prompt: Deployment = deployment_of(config)
    plain = modelled_latency(spec, None, "bfloat16", prompt, SLOW).seconds
    slower = replace(SLOW, layer_seconds=1e-3, step_seconds=5e-3)
    found = modelled_latency(spec, None, "bfloat16", prompt, slower).seconds
    assert found == pytest.approx(plain + 32e-3 + 5e-3)
    cache = 2 * 2 * 32 * 4096 * prompt.positions
    apart = modelled_latency(spec, None, "bfloat16", prompt, replace(SLOW, cache_bandwidth=1e8))
    assert apart.seconds == pytest.approx(plain + 9 * cache / 1e9)


def test_shapes_from_counts() -> None:
    case = next(c for c in CASES.values() if c.wrapper == c.text == "qwen2")
    spec = spec_of(case.config())  # two query heads on each of two key/value heads
    found = shapes_of(spec, (4, 2, 1, 0), (24, 10, 0, 0))
    assert [(s.heads, s.kv_heads, s.channels) for s in found] == [
        (4, 2, 24), (2, 1, 10), (1, 1, 0), (0, 0, 0),
    ]  # fmt: skip


def test_median_and_its_interval() -> None:
    found = measured([float(i) for i in range(1, 102)], "here", "float32")
    assert found.seconds == 51
    assert (found.low, found.high) == (41, 61)
    assert found.kind == "measured"


def test_narrow_matrices_are_read_at_their_own_rate(llava: tuple[Any, BackboneSpec]) -> None:
    config, spec = llava
    prompt = deployment_of(config)
    plain = modelled_latency(spec, None, "bfloat16", prompt, SLOW).seconds
    same = replace(SLOW, reading={4096: 1e9, 11008: 1e9})
    assert modelled_latency(spec, None, "bfloat16", prompt, same).seconds == pytest.approx(plain)
    # The out-projection of the MLP alone has 11,008 columns.
    fast = replace(SLOW, reading={4096: 1e9, 11008: 2e9})
    found = modelled_latency(spec, None, "bfloat16", prompt, fast).seconds
    saved = 32 * 2 * 4096 * 11008 / 2e9
    assert found == pytest.approx(plain - saved, rel=1e-3)
