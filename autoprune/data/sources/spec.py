"""What a user types of his data, as values: sources with weights, and names of columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from autoprune.data.splits import SourceSpec
from autoprune.errors import AutoPruneError, did_you_mean

COLUMNS = ("id", "image", "question", "answer", "conversations")
"""What is read of a row; ``conversations`` takes the place of question and answer."""


def parse_source(text: str) -> SourceSpec:
    """Read ``PATH`` or ``PATH=WEIGHT``.

    Raises:
        AutoPruneError: for an empty path, or a weight that is not above 0.
    """
    ref, sign, weight = text.rpartition("=")
    if not sign or Path(text).exists():
        ref, weight = text, ""
    if not ref.strip():
        raise AutoPruneError(f"--data {text!r} names nothing: give a file, a folder or a hub name")
    if not weight:
        if sign and ref != text:
            raise AutoPruneError(f"--data {text!r} has no weight behind '=': write {ref}=2")
        return SourceSpec(ref)
    try:
        value = float(weight)
    except ValueError:
        raise AutoPruneError(
            f"--data {text!r}: {weight!r} is no weight: give a number above 0, as in {ref}=2"
        ) from None
    if not (math.isfinite(value) and value > 0):
        raise AutoPruneError(f"--data {text!r}: weight {weight} is not a number above 0")
    return SourceSpec(ref, value)


def parse_columns(items: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Read ``image=img,question=prompt``, in one piece or several.

    Raises:
        AutoPruneError: for what is not NAME=COLUMN, an unknown name, or one that is given twice.
    """
    found: dict[str, str] = {}
    for item in (part.strip() for text in items for part in text.split(",")):
        name, sign, column = (part.strip() for part in item.partition("="))
        if not sign or not column:
            raise AutoPruneError(
                f"--columns {item!r} is not NAME=COLUMN: write image=img,question=prompt,"
                "answer=label"
            )
        if name not in COLUMNS:
            raise AutoPruneError(
                f"--columns {item!r}: nothing is read as {name!r}{did_you_mean(name, COLUMNS)}"
            )
        if name in found:
            raise AutoPruneError(f"--columns names {name!r} twice: {found[name]} and {column}")
        found[name] = column
    if "conversations" in found and {"question", "answer"} & set(found):
        raise AutoPruneError(
            "--columns names conversations and question or answer: a row has the one or the others"
        )
    return tuple(sorted(found.items()))
