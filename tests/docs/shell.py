"""Commands of a page, as a reader would copy them, and a shell that runs them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"```.*?```", re.S)
QUICK = (
    *("--trials", "3", "--workers", "1", "--max-recovery-samples", "64"),
    *("--search-samples", "48", "--confirm-samples", "48", "--confirm-seeds", "1"),
)
"""What keeps a search of the docs short; the rest of the command is as it stands."""

SERVES = "runs at"
"""What a command says that serves until it is interrupted."""


def commands(page: str) -> list[str]:
    """Return the indented commands of a page of Markdown, in order; ends of line are joined."""
    text = FENCE.sub("", (ROOT / page).read_text()).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    found = [line.partition("  #")[0].strip() for line in lines]
    return [line for line in found if line.split()[0] in ("autoprune", "make", "ray", "lmms-eval")]


def python_blocks(page: str) -> str:
    """Return the Python of a page as one script, in order."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    return "\n".join(blocks)


def run(command: str, folder: Path, given: Mapping[str, str]) -> str:
    """Run a command in ``folder`` and return what it printed.

    Args:
        command: as the page has it.
        folder: that it runs in.
        given: what stands on the page -> what stands for it here.

    Raises:
        AssertionError: it failed.
    """
    for shown, meant in given.items():
        command = command.replace(shown, meant)
    words = shlex.split(command)
    assert words[0] == "autoprune"
    words = [sys.executable, "-m", "autoprune.cli", *words[1:]]
    if "search" in words and "--resume" not in words:
        words += QUICK
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if words[3] == "ui":
        return _served(words, folder, env)
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout


def _heeds_interrupts() -> None:
    """Let a child end by Ctrl-C, also of a test that was started in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _served(words: list[str], folder: Path, env: Mapping[str, str]) -> str:
    """Run a server until it says where it is, and interrupt it as its reader does."""
    with subprocess.Popen(
        words,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_heeds_interrupts,
    ) as process:
        said: list[str] = []
        assert process.stdout is not None

        def read() -> None:
            assert process.stdout is not None
            said.extend(iter(process.stdout.readline, ""))

        reader = threading.Thread(target=read)
        reader.start()
        deadline = time.monotonic() + 120
        while not any(SERVES in line for line in said) and time.monotonic() < deadline:
            assert process.poll() is None, "".join(said)
            time.sleep(0.2)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            process.kill()
        reader.join()
    assert any(SERVES in line for line in said), "".join(said)
    return "".join(said)
