"""How a setting is called on the command line, and the line that refuses its value."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from autoprune.cost.budget import BYTES
from autoprune.errors import AutoPruneError


def flag(field: str) -> str:
    """Return the command-line option of a setting: ``--max-hours`` for ``max_hours``."""
    # Options that are given once a value are called by one.
    names = {
        "budgets": "budget",
        "capabilities": "capability",
        "data_identity": "data",
        "floors": "floor",
        "warm_baselines": "baselines",
        "timed": "objective",
    }
    return "--" + names.get(field, field.replace("_", "-"))


MOST = 100_000
"""Of what is counted in a search: with more, even the forecast would take hours."""

Number = TypeVar("Number", int, float, int | None, float | None)


def at_least_one(value: Number, field: str) -> Number:
    """Return a number of something, if it is one.

    Raises:
        AutoPruneError: it is below 1.
    """
    if value is not None and value < 1:
        raise AutoPruneError(f"{flag(field)} {value} is below 1: give 1 or more")
    return value


def within_reason(value: Number, field: str) -> Number:
    """Return a number of something that a search counts, if a machine could run as many.

    Raises:
        AutoPruneError: it is above :data:`MOST`.
    """
    if value is not None and value > MOST:
        raise AutoPruneError(
            f"{flag(field)} {value:g} is above {MOST:,}: give less, which is still more than any "
            "machine can run"
        )
    return value


def above_zero(value: Number, field: str, mend: str) -> Number:
    """Return a finite number above 0, or None where nothing is said.

    Raises:
        AutoPruneError: it is neither; says the ``mend``.
    """
    if value is not None and not (math.isfinite(value) and value > 0):
        raise AutoPruneError(f"{flag(field)} {value:g} is not a number above 0: {mend}")
    return value


def problem_line(option: str, problem: Mapping[str, Any]) -> str:
    """Return what pydantic found wrong with an option's value in a line that says the mend.

    Args:
        option: as it is typed.
        problem: one of ``ValidationError.errors()``.
    """
    value, kind = problem["input"], problem["type"]
    for wanted, (what, such) in _NUMBERS.items():
        if kind.startswith(wanted):
            return f"{option} {value!r} is not {what}: give one such as {such}"
    if kind == "literal_error":
        return f"{option} {value!r} is unknown: give {problem['ctx']['expected']}"
    if kind == "greater_than_equal":
        least = problem["ctx"]["ge"]
        return f"{option} {value} is not {least:g} or more: give such a number"
    return f"{option} {value!r}: {problem['msg'].removeprefix('Value error, ')}"


_NUMBERS = {"int_": ("a whole number", "8"), "float_": ("a number", "0.5")}
"""How pydantic's types of problems begin, what was wanted, and an example."""


def parse_bytes(text: str, option: str) -> int:
    """Return the bytes that ``text`` (``512MiB``, ``4GiB``) means.

    Raises:
        AutoPruneError: for anything else; names ``option``.
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]+)\s*", text)
    try:
        size = float(match.group(1)) * BYTES[match.group(2)] if match else -1.0
    except (KeyError, ValueError):
        size = -1.0
    if size < 0:
        raise AutoPruneError(f"{option} {text!r} is not a size: write it like 512MiB or 4GiB")
    return int(size)


def whole_path(task: str) -> str:
    """Return a task as typed, the path of a YAML file (behind it may stand ``:METRIC``) in full."""
    found = re.fullmatch(r"(.+\.ya?ml)((?::[^:/]+)?)", task)
    return task if found is None else f"{Path(found[1]).expanduser().absolute()}{found[2]}"


def objective_settings(names: Sequence[str]) -> dict[str, Any]:
    """Return the settings that objectives mean: one unit of size at most, and latency.

    Raises:
        AutoPruneError: for several sizes.
    """
    sizes = [name for name in names if name != "latency"]
    if len(set(sizes)) > 1:
        raise AutoPruneError(
            f"--objective {','.join(names)} names {len(set(sizes))} sizes: name one of params, "
            "bytes and memory, with latency beside it if it shall count"
        )
    found: dict[str, Any] = {"timed": True} if "latency" in names else {}
    return {**found, "objective": sizes[0]} if sizes else found
