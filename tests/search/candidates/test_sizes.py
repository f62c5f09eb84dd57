"""Budgets against what pruning and bits can reach: in parameters and in bytes."""

from __future__ import annotations

from typing import Any

import pytest

from autoprune.cost.bytes import stored_bytes
from autoprune.errors import AutoPruneError
from autoprune.models.shape import BackboneSpec, spec_of
from autoprune.search.candidates.even import even_plan
from autoprune.search.candidates.sizes import Sizes, kept_share, read_sizes
from autoprune.search.settings import make_settings
from autoprune.zoo import build_config

MIB = 2**20


@pytest.fixture(scope="module")
def spec() -> BackboneSpec:
    return spec_of(build_config())


def sizes(spec: BackboneSpec, *budgets: str, **values: Any) -> Sizes:
    return read_sizes(make_settings({"budgets": budgets, **values}), spec)


def test_parameters_are_read_as_before(spec: BackboneSpec) -> None:
    found = sizes(spec, "60%", "1.4M-params")
    assert found.budget.text == "60%"
    assert found.budget.params == spec.total_params * 60 // 100
    assert found.smallest == round(0.6 * found.budget.params)
    assert found.budget.bytes is None
    assert not found.spans


def test_bytes_without_bits_are_parameters(spec: BackboneSpec) -> None:
    found = sizes(spec, "4MiB-bytes")
    assert found.budget.params == MIB
    assert found.budget.text == "4MiB-bytes"
    assert not found.spans
    assert sizes(spec, "4MiB-bytes", "50%").budget.params == spec.total_params // 2


def test_each_precision_has_a_span_of_its_own(spec: BackboneSpec) -> None:
    found = sizes(spec, "60%", quantize=("none", "int8", "int4"))
    assert list(found.spans) == ["float32", "int8", "int4"]
    kept = spec.total_params * 60 // 100
    for precision, (low, high) in found.spans.items():
        assert low <= high
        # What the budget in parameters leaves, in this precision.
        multiple = 16 if precision == "int4" else 1
        assert high == stored_bytes(spec, even_plan(spec, kept, multiple), precision)
        # The smallest is cut as deep in every precision.
        assert low == pytest.approx(
            stored_bytes(spec, even_plan(spec, round(0.6 * kept), multiple), precision), rel=0.01
        )
    assert found.budget.bytes == found.spans["float32"][1]
    assert found.smallest == min(low for low, _ in found.spans.values())
    assert 0 < found.kept(spec) < 1


def test_a_budget_in_bytes_bounds_every_precision(spec: BackboneSpec) -> None:
    found = sizes(spec, "4MiB-bytes", quantize=("none", "int8"))
    assert found.spans["float32"][1] == 4 * MIB
    # The dense model in int8 is smaller than that: bits alone are enough.
    assert found.spans["int8"][1] == stored_bytes(spec, None, "int8") < 4 * MIB
    assert found.budget.params == spec.total_params
    both = sizes(spec, "4MiB-bytes", "50%", "5MiB-bytes", quantize=("int8",))
    assert both.budget.params == spec.total_params // 2
    assert both.budget.text == "50% and 4MiB-bytes"
    assert both.spans["int8"][1] < found.spans["int8"][1]


@pytest.mark.parametrize("floor", ["2MiB-bytes", "40%"])
def test_the_smallest_size_holds_in_both_units(spec: BackboneSpec, floor: str) -> None:
    found = sizes(spec, "80%", quantize=("none", "int8"), min_size=floor)
    for precision, (low, high) in found.spans.items():
        plan = even_plan(spec, spec.total_params * 40 // 100)
        wanted = 2 * MIB if "bytes" in floor else stored_bytes(spec, plan, precision)
        assert low == min(wanted, high)


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
def test_the_share_of_the_backbone_follows_from_bytes(spec: BackboneSpec, precision: str) -> None:
    ends = {0.0: stored_bytes(spec, (), precision), 1.0: stored_bytes(spec, None, precision)}
    for share, count in ends.items():
        assert kept_share(spec, precision, count) == share
    half = even_plan(spec, round(spec.outside_params + spec.backbone_params / 2), 16)
    found = kept_share(spec, precision, stored_bytes(spec, half, precision))
    assert found == pytest.approx(0.5, abs=0.03)


def test_a_model_of_halves_is_counted_in_halves(spec: BackboneSpec) -> None:
    settings = make_settings({"budgets": ("60%",), "quantize": ("none", "int4")})
    found = read_sizes(settings, spec, "bfloat16")
    assert list(found.spans) == ["bfloat16", "int4-bf16"]
    whole = read_sizes(settings, spec)
    assert found.budget.bytes == (whole.budget.bytes or 0) / 2
    assert found.spans["int4-bf16"][1] < whole.spans["int4"][1]
    limit = make_settings({"budgets": ("2MiB-bytes",)})
    assert read_sizes(limit, spec, "bfloat16").budget.params == MIB
    assert read_sizes(limit, spec).budget.params == MIB / 2


def test_what_no_precision_reaches_is_said(spec: BackboneSpec) -> None:
    with pytest.raises(AutoPruneError, match=r"allows 100KiB at --quantize int4.*reaches 1\.5"):
        sizes(spec, "100KiB-bytes", quantize=("int4",))
