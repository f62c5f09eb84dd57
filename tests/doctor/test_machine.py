"""What a container grants, read from files as kernels write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.doctor.machine import memory_limit, this_machine, usable_cores


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_cores_are_those_of_the_container(
    files: dict[str, str], cores: int | None, tmp_path: Path
) -> None:
    _write(tmp_path, files)
    bound = usable_cores(tmp_path / "nowhere")
    assert usable_cores(tmp_path) == (bound if cores is None else cores)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "max", "memory.current": "5"}, (None, 0)),
        ({"memory.max": "1000", "memory.current": "400"}, (1000, 400)),
        ({"memory/memory.limit_in_bytes": "1000"}, (1000, 0)),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096)}, (None, 0)),
        ({}, (None, 0)),
    ],
)
def test_memory_is_that_of_the_container(
    files: dict[str, str], expected: tuple[int | None, int], tmp_path: Path
) -> None:
    _write(tmp_path, files)
    assert memory_limit(tmp_path) == expected


def test_this_machine_is_looked_at_where_home_will_be(tmp_path: Path) -> None:
    found = this_machine(tmp_path / "not" / "there" / "yet")
    assert found.cores >= 1
    assert 0 < found.available <= found.memory
    assert found.disk > 0
    assert not (tmp_path / "not").exists()


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
