"""Images of a user's data: found, told apart by their content, and opened when they are read.

An image is known by its length and its first and last 4 KiB, of a file or of a data set's bytes:
enough to tell pictures apart (both PNG and JPEG end in what depends on all that came before), and
read in a moment where whole files would take minutes.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.errors import AutoPruneError

_EDGE = 4096


def path_of(value: Any, folder: Path) -> Path | None:
    """Return where an image lies; None for one whose bytes are in its row.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(value, str):
        return folder / value
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            return None
        if isinstance(value.get("path"), str):
            return folder / str(value["path"])
    raise TypeError("an image is a path, or a mapping of bytes or path")


def known_by(value: Any, folder: Path) -> int:
    """Return a number that tells an image from every other one.

    Raises:
        OSError: its file cannot be read.
        TypeError: see :func:`path_of`.
    """
    path = path_of(value, folder)
    if path is None:
        raw = value["bytes"]
        held = memoryview(raw)
        return _number(len(held), bytes(held[:_EDGE]), bytes(held[-_EDGE:]))
    handle = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(handle).st_size
        head = os.pread(handle, _EDGE, 0)
        tail = os.pread(handle, _EDGE, max(0, size - _EDGE)) if size > _EDGE else head
    finally:
        os.close(handle)
    return _number(size, head, tail)


def text_number(text: str) -> int:
    """Return a number that tells a text from every other one."""
    raw = text.encode()
    return _number(len(raw), raw, b"")


def open_image(value: Any, folder: Path, row: str) -> Any:
    """Open an image, RGB.

    Args:
        value: as its row has it.
        folder: that relative paths start from.
        row: what to call the row.

    Raises:
        AutoPruneError: it is not there, or does not decode.
    """
    from PIL import Image

    path = path_of(value, folder)
    name = "an image" if path is None else f"image {str(path)!r}"
    try:
        source: Any = io.BytesIO(value["bytes"]) if path is None else path
        with Image.open(source) as found:
            return found.convert("RGB")
    except FileNotFoundError:
        raise AutoPruneError(
            f"{name} of {row} is not there: put it back, or take the row out"
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:120]
        raise AutoPruneError(
            f"{name} of {row} does not decode ({reason}): mend it, or take the row out"
        ) from None


def _number(size: int, head: bytes, tail: bytes) -> int:
    digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=8)
    digest.update(head)
    digest.update(tail)
    return int.from_bytes(digest.digest(), "little") >> 1  # a positive int64
