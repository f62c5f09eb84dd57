"""Where words go: people read the console, programs read one JSON object on stdout."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from autoprune.tracking.units import duration as duration  # commands read it here

if TYPE_CHECKING:
    from rich.console import Console


def print_error(message: str) -> None:
    """Print ``error: message`` on stderr as one line."""
    print("error: " + " ".join(message.split()), file=sys.stderr)


def console(as_json: bool = False) -> Console:
    """Return the console that people read: stdout, or stderr where stdout carries JSON.

    Names and paths of users are printed as they are: no markup, no emoji codes.
    """
    from rich.console import Console

    return Console(stderr=as_json, highlight=False, markup=False, emoji=False)


@contextmanager
def json_stdout(as_json: bool) -> Iterator[None]:
    """Keep stdout for the one JSON object: whatever else is written to it goes to stderr.

    Works on the file descriptor too, so that compiled libraries and child processes are caught.
    """
    if not as_json:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; figures that are not numbers become null."""
    json.dump(_finite(value), sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def size_on_disk(count: float) -> str:
    """Return a number of bytes as people say it, in powers of 1024."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{int(count)} B"
