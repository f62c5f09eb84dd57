"""What a killed process left beside an output is removed; what another still writes is not."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from autoprune.errors import AutoPruneError
from autoprune.models.output import scratch_prefix, sweep, written_whole


def test_what_the_killed_left_is_swept(tmp_path: Path) -> None:
    out = tmp_path / "model"
    code = (
        "import os, pathlib; from autoprune.models.output import written_whole\n"
        f"with written_whole(pathlib.Path({str(out)!r})) as work:\n"
        "    (work / 'part').write_text('x'); os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    (left,) = tmp_path.iterdir()
    assert (left / "part").is_file()
    ours = tmp_path / f"{scratch_prefix(out)}a1"
    theirs = tmp_path / ".model.elsewhere-1.a1"
    other = tmp_path / left.name.replace("model", "model2")
    for place in (ours, theirs, other):
        place.mkdir()
    with written_whole(out) as work:
        (work / "whole").write_text("x")
    assert {place.name for place in tmp_path.iterdir()} == {
        out.name,
        ours.name,
        theirs.name,
        other.name,
    }
    assert (out / "whole").is_file()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ],
)
def test_a_full_disk_leaves_nothing(error: Exception, tmp_path: Path) -> None:
    def write() -> None:
        with written_whole(tmp_path / "model") as work:
            (work / "part").write_text("x")
            raise error

    with pytest.raises(AutoPruneError, match=r"No space left on device\): free some"):
        write()
    assert os.listdir(tmp_path) == []


def test_nothing_is_swept_where_nothing_is(tmp_path: Path) -> None:
    sweep(tmp_path / "none" / "model")
    assert os.listdir(tmp_path) == []
