"""The catalogue of devices, and entries that were measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autoprune.cost.devices import DTYPES, GIB, devices, find_device
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


@pytest.mark.parametrize("device", devices().values(), ids=lambda d: d.name)
def test_every_entry_is_whole(device) -> None:
    assert device.sources
    assert all(len(source) > 15 for source in device.sources)
    assert device.basis
    assert not device.measured
    assert set(device.compute) <= set(DTYPES)
    # Fewer bits are never slower, and no memory feeds a chip beyond what it can compute with.
    order = [
        device.compute[d] for d in ("float32", "float16", "int8", "int4") if d in device.compute
    ]
    assert order == sorted(order)
    assert all(rate > device.bandwidth / 4 for rate in order)


def test_a_measured_entry_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    entry = {**find_device("l4").to_dict(), "name": "box", "measured": True}
    place = tmp_path / "devices"
    place.mkdir()
    (place / "box.json").write_text(json.dumps(entry))
    assert find_device("box", tmp_path).measured
    assert find_device(str(place / "box.json")) == find_device("box", tmp_path)


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
