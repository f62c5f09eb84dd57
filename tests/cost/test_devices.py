"""The catalogue of devices, and entries that were measured."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from autoprune.cost.devices import DTYPES, GIB, Device, devices, find_device
from autoprune.errors import AutoPruneError

# Sold by these figures: installed GiB, GB/s.
KNOWN = {
    "jetson-orin-nano-8gb": (8, 68),
    "jetson-orin-nx-16gb": (16, 102.4),
    "jetson-agx-orin-64gb": (64, 204.8),
    "raspberry-pi-5-8gb": (8, 17.1),
    "rtx-4060": (8, 272),
    "rtx-5090": (32, 1792),
    "l4": (24, 300),
    "t4": (16, 320),
    "a10": (24, 600),
    "a100-40gb": (40, 1555),
    "h100-sxm": (80, 3350),
    "apple-m4-max-64gb": (64, 546),
    "snapdragon-8-gen-3-12gb": (12, 76.8),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_devices(name: str) -> None:
    gib, bandwidth = KNOWN[name]
    device = find_device(name)
    assert device.installed == gib * GIB
    assert device.bandwidth == pytest.approx(bandwidth * 1e9)
    assert 0.4 * device.installed < device.memory < device.installed


# What every device of a kind lies within: installed GiB, GB/s, 10^12 operations a second in FP32,
# and how many times those of FP16 its INT8 operations are.
PLAUSIBLE = {
    "phone": ((4, 24), (25, 120), (1, 5), ()),
    "board": ((2, 64), (15, 210), (0.1, 6), (2,)),
    "laptop": ((4, 24), (150, 1000), (8, 60), (4,)),
    "desktop": ((8, 32), (250, 1800), (15, 105), (4,)),
    "server": ((16, 141), (300, 4800), (8, 67), (2,)),
    "mac": ((8, 192), (60, 820), (2.5, 30), ()),
}


def test_every_kind_is_there() -> None:
    names = set(devices())
    assert {device.kind for device in devices().values()} == set(PLAUSIBLE)
    for family in (
        *("snapdragon", "dimensity", "iphone", "raspberry-pi-5", "l4", "a10", "t4", "a100", "h100"),
        *("jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "rtx-4060-laptop"),
        *(f"rtx-{gpu}" for gpu in (4060, 4070, 4080, 4090, 5060, 5070, 5080, 5090)),
        *(f"apple-m{generation}" for generation in (1, 2, 3, 4)),
    ):
        assert any(name == family or name.startswith(f"{family}-") for name in names), family


@pytest.mark.parametrize("device", devices().values(), ids=lambda d: d.name)
def test_figures_are_plausible(device: Device) -> None:
    gib, bandwidth, float32, eight = PLAUSIBLE[device.kind]
    assert gib[0] <= device.installed / GIB <= gib[1]
    assert bandwidth[0] <= device.bandwidth / 1e9 <= bandwidth[1]
    rates = dict(device.compute)
    assert rates or device.kind == "phone"
    if "float32" in rates:
        assert float32[0] <= rates["float32"] / 1e12 <= float32[1]
    if "float16" in rates:
        assert 1.9 <= rates["float16"] / rates["float32"] <= 17
        assert rates["int8"] / rates["float16"] == pytest.approx(eight[0], rel=0.04)
        assert rates.get("bfloat16", rates["float16"]) == rates["float16"]
    if "int4" in rates:
        assert rates["int4"] / rates["int8"] == pytest.approx(2)
    # A token of weights in 4 bits takes four operations a byte: none is held up by them.
    assert all(rate > 4 * device.bandwidth for rate in rates.values())


@pytest.mark.parametrize("device", devices().values(), ids=lambda d: d.name)
def test_every_entry_is_whole(device: Device) -> None:
    assert device.sources
    assert all(len(source) > 15 for source in device.sources)
    assert device.basis
    assert not device.measured
    assert set(device.compute) <= set(DTYPES)
    assert set(device.unchecked) <= {"memory", "bandwidth", *device.compute}
    # Keys of pages were replaced, and every page has an address or a document's name.
    assert not any(re.match(r"[a-z0-9-]+: ", source) for source in device.sources)
    assert all(re.search(r"\w\.\w+/|#\d|DS-\d|Guide", source) for source in device.sources)


def test_a_measured_entry_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    entry = {**find_device("l4").to_dict(), "name": "box", "measured": True}
    place = tmp_path / "devices"
    place.mkdir()
    (place / "box.json").write_text(json.dumps(entry))
    assert find_device("box", tmp_path).measured
    assert find_device(str(place / "box.json")) == find_device("box", tmp_path)
    # Entries of earlier versions say nothing of what was not checked.
    del entry["unchecked"]
    (place / "box.json").write_text(json.dumps(entry))
    assert find_device("box", tmp_path).unchecked == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("jetson-orin-nano-8", "did you mean 'jetson-orin-nano-8gb'"),
        ("rtx4090", "did you mean 'rtx-4090'"),
        ("toaster", "'autoprune devices' lists"),
        ("nowhere/box.json", "No such file"),
    ],
)
def test_unknown_devices(name: str, said: str) -> None:
    with pytest.raises(AutoPruneError, match=said):
        find_device(name)


@pytest.mark.parametrize(
    "changed",
    ["[]", "{", {"bandwidth": -1}, {"memory": "8"}, {"compute": {"int9": 1.0}}, {"colour": "red"}],
)
def test_files_that_are_no_entry(tmp_path: Path, changed: object) -> None:
    path = tmp_path / "box.json"
    whole = {**find_device("l4").to_dict(), **changed} if isinstance(changed, dict) else changed
    path.write_text(whole if isinstance(whole, str) else json.dumps(whole))
    with pytest.raises(AutoPruneError, match=r"box\.json"):
        find_device(str(path))


def test_reading_lies_between_measured_widths() -> None:
    plain = find_device("l4")
    assert plain.reads(17) == plain.bandwidth
    narrow = replace(plain, reading={512: 1e9, 2048: 3e9})
    assert [narrow.reads(wide) for wide in (8, 512, 1024, 2048, 9999)] == pytest.approx(
        [1e9, 1e9, 2e9, 3e9, 3e9]
    )
