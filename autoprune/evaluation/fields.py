"""What a task's file says, checked: what it says to AutoPrune, and the columns that it names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.errors import AutoPruneError, did_you_mean

_WORD = re.compile(r"[A-Za-z_]\w*")


def check_own(own: Any, path: Path) -> Mapping[str, Any]:
    """Return what a file says to AutoPrune, ``metadata: {autoprune: {...}}``.

    Raises:
        AutoPruneError: it is no mapping, has a key that nothing reads, or a value out of range.
    """
    if own is None:
        return {}
    if not isinstance(own, Mapping):
        raise AutoPruneError(
            f"task file {path}: autoprune {own!r} is no mapping: write it as "
            "metadata: {autoprune: {chance: 0.25}}"
        )
    for key, value in own.items():
        if key not in _OWN:
            raise AutoPruneError(
                f"task file {path}: nothing is read as autoprune {key!r}"
                f"{did_you_mean(str(key), _OWN)}"
            )
        holds, wanted = _OWN[key]
        if not holds(value):
            raise AutoPruneError(f"task file {path}: autoprune {key} {value!r} is not {wanted}")
    return dict(own)


def check_columns(config: Mapping[str, Any], columns: Sequence[str], name: str) -> None:
    """Check the columns that a task's fields name by one word.

    lmms-eval takes a word that is no column for a text, and asks or expects it of every document.
    A question may be one that is asked of every image; it is let through unless a column is near.

    Raises:
        AutoPruneError: there is no such column.
    """
    for key in ("doc_to_visual", "doc_to_text", "doc_to_target"):
        value = config.get(key)
        if not isinstance(value, str) or not _WORD.fullmatch(value) or value in columns:
            continue
        near = did_you_mean(value, columns)
        if key == "doc_to_text" and "did you mean" not in near:
            continue
        raise AutoPruneError(
            f"task {name!r}: {key} {value!r} names no column of its documents{near}"
        )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _words(value: Any) -> bool:
    words = value if isinstance(value, list) else [value]
    return bool(words) and all(isinstance(word, str) and word.strip() for word in words)


_OWN: dict[str, tuple[Callable[[Any], bool], str]] = {
    "chance": (lambda v: _number(v) and 0 <= v < 1, "a share of right answers in [0, 1)"),
    "maximum": (lambda v: _number(v) and v > 0, "a number above 0"),
    "max_new_tokens": (lambda v: isinstance(v, int) and v >= 1, "a whole number of 1 or more"),
    "metric": (lambda v: isinstance(v, str) and bool(v), "the name of a metric"),
    "capability": (_words, "a word, or a list of words"),
}
"""What is read of it: what a value has to be, as a test and in words."""
