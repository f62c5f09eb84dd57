"""The live table on a real terminal (a pty), and plain lines elsewhere."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from autoprune.cli.live import LiveView, PlainView, View, view
from autoprune.search.listener import Progress
from autoprune.tracking.records.trial import TrialRecord


def record(trial: int, state: str = "complete", **more: object) -> TrialRecord:
    values = {
        "trial": trial,
        "state": state,
        "axis": "hybrid",
        "recovery": "sft+hidden/full",
        "data_fraction": 0.05,
        "params": 1_200_000,
        "fraction": 0.55 + trial / 1000,
        "retention": 0.9 + trial / 1000,
        "fidelity": 1.0,
    }
    return TrialRecord(**{**values, **more})


def play(listener: View) -> None:
    """Tell a view what a short search would tell it."""
    with listener:
        listener.on_stage("measure importance")
        listener.on_stage("run trials")
        listener.on_trial(record(0, "running", retention=None))
        listener.on_trial(record(0))
        listener.on_front(
            [record(0)], Progress(3, complete=1, hypervolume=0.412, seconds=61.0, seconds_left=95.0)
        )
        listener.on_trial(record(1, "failed", reason="out of memory", retention=None))
        front = [record(0), record(2)]
        listener.on_trial(record(2))
        listener.on_front(front, Progress(3, complete=2, failed=1, hypervolume=0.43, seconds=70.0))
        listener.on_stage("confirm the front")
        listener.on_confirm(0, 6)
        listener.on_confirm(1, 6)


@contextmanager
def terminal(columns: int = 110, rows: int = 30) -> Iterator[tuple[Console, list[bytes]]]:
    """Give a console on a pseudo-terminal, and what arrives at its other end."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    seen: list[bytes] = []

    def read() -> None:
        try:
            while block := os.read(master, 4096):
                seen.append(block)
        except OSError:
            pass  # the other end was closed

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    stream = os.fdopen(slave, "w")
    try:
        yield Console(file=stream, width=columns, height=rows), seen
    finally:
        stream.close()
        reader.join(timeout=5)
        os.close(master)


def test_a_terminal_gets_a_live_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    with terminal() as (console, seen):
        listener = view(3, console)
        assert isinstance(listener, LiveView)
        play(listener)
    raw = b"".join(seen).decode()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw)
    assert "\x1b[2K" in raw  # lines are redrawn in place
    assert raw.rstrip().endswith("\x1b[2K") or "\x1b[?25h" in raw  # and the cursor comes back
    assert "confirm the front" in text
    assert "trials 3/3: 2 done, 0 running, 0 stopped, 1 failed" in text
    assert "hypervolume 0.430" in text
    assert "confirmation 1/6" in text
    assert "trial 1 failed" in text
    assert "out of memory" in text
    assert "55.2%" in text


def test_a_pipe_gets_plain_lines() -> None:
    stream = io.StringIO()
    listener = view(3, Console(file=stream, width=80))
    assert isinstance(listener, PlainView)
    play(listener)
    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue()
    assert "measure importance" in lines[0]
    assert any("trial 0 complete · 1.20M params, 55.0% of the whole" in line for line in lines)
    assert any("trials 1/3, front of 1, hypervolume 0.412, about 1 min" in line for line in lines)
    assert any(line.endswith("out of memory") for line in lines)
    assert lines[-2].endswith("confirmation 0/6")  # nothing is known yet
    assert lines[-1].endswith("confirmation 1/6, about 0 s left")
    assert all(re.match(r"\[ *\d.*\] ", line) for line in lines)  # no line is broken in two


def test_a_long_front_is_shown_over_its_whole_range() -> None:
    from autoprune.cli.live import ROWS, render

    listener = view(40, Console(file=io.StringIO()))
    front = [record(i, params=1_000_000 + i) for i in range(20)]
    listener.on_front(front, Progress(40, complete=20, hypervolume=0.5))
    out = io.StringIO()
    Console(file=out, width=110).print(render(listener))
    said = out.getvalue()
    assert f"{ROWS} of 20 points" in said
    assert "55.0%" in said
    assert "56.9%" in said


def test_the_hour_to_come_stands_beside_the_hypervolume() -> None:
    listener = view(40, Console(file=io.StringIO()))
    assert listener.volume == "hypervolume 0.000"
    known = Progress(40, complete=20, hypervolume=0.5, expected_gain=0.0123)
    listener.on_front([record(1)], known)
    assert listener.volume == "hypervolume 0.500, +1.2 points expected of another hour"


def test_the_time_that_is_left_includes_the_confirmation() -> None:
    from autoprune.cli.live import render

    listener = view(40, Console(file=io.StringIO()))
    known = Progress(40, complete=20, seconds_left=100.0, confirm_left=3600.0)
    listener.on_front([record(1)], known)
    left = listener.seconds_left
    assert left is not None
    assert 3690 < left <= 3700
    out = io.StringIO()
    Console(file=out, width=110).print(render(listener))
    assert "1 h 00 min of it to confirm" in out.getvalue()
