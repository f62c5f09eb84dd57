"""Constraints as a user types them, and by how much a point misses one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from autoprune.cost.budget import BYTES, SCALES
from autoprune.errors import AutoPruneError

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_ROUNDING = 1e-9  # of shares, which are quotients
_FORM = re.compile(r"([\d.,]+)\s*([A-Za-z]*)")


@dataclass(frozen=True)
class Limit:
    """A bound on one figure of a point.

    Attributes:
        option: that it was typed by.
        text: as typed.
        figure: key of the figure in a candidate: ``retention``, ``params``, ``memory``,
            ``latency``, or ``floor NAME``.
        bound: in the figure's unit: a share, parameters, bytes, seconds.
        most: whether the figure may be no larger; else no smaller.
    """

    option: str
    text: str
    figure: str
    bound: float
    most: bool = True

    @property
    def said(self) -> str:
        """The constraint as it is typed."""
        return f"{self.option} {self.text}".strip()

    def missed(self, figures: Mapping[str, float]) -> float:
        """Return by how much a point misses it, as a share of the bound; 0 where it fits.

        A figure that a point lacks misses nothing: of a model that does not fit a machine no time
        is known, and its memory is a constraint of its own.
        """
        if self.figure not in figures:
            return 0.0
        over = figures[self.figure] - self.bound
        share = (over if self.most else -over) / self.bound
        return share if share > _ROUNDING else 0.0


def read_share(option: str, value: float) -> float:
    """Return a share of the dense model's ability.

    Raises:
        AutoPruneError: it is not above 0 and at most 1.
    """
    if not 0 < value <= 1:
        raise AutoPruneError(
            f"{option} {value:g} is no share of the dense model's ability: write one above 0 and "
            "at most 1, such as 0.95"
        )
    return value


def read_amount(option: str, text: str, units: Mapping[str, float], sample: str) -> float:
    """Return an amount with its unit, in units of 1.

    Raises:
        AutoPruneError: it has no such form, an unknown unit, or is not above zero.
    """
    match = _FORM.fullmatch(text.strip())
    unit = match[2] if match else ""
    known = {name.lower(): scale for name, scale in units.items()}
    if match is None or unit.lower() not in known:
        names = ", ".join(name for name in units if name)
        raise AutoPruneError(f"{option} {text!r} cannot be read: write it in {names}, as {sample}")
    try:
        amount = float(match[1])
    except ValueError:
        amount = 0.0
    if not amount > 0:
        raise AutoPruneError(f"{option} {text!r} is not above zero: write it as {sample}")
    return amount * known[unit.lower()]


def read_limits(
    *,
    min_retention: float | None = None,
    max_latency: str | None = None,
    max_params: str | None = None,
    max_memory: str | None = None,
) -> tuple[Limit, ...]:
    """Return the constraints that were typed.

    Raises:
        AutoPruneError: one cannot be read.
    """
    found = []
    if min_retention is not None:
        share = read_share("--min-retention", min_retention)
        found.append(Limit("--min-retention", f"{share:g}", "retention", share, most=False))
    if max_latency is not None:
        seconds = read_amount("--max-latency", max_latency, SECONDS, "40ms")
        found.append(Limit("--max-latency", max_latency, "latency", seconds))
    if max_params is not None:
        count = read_amount("--max-params", max_params, SCALES, "3B")
        found.append(Limit("--max-params", max_params, "params", count))
    if max_memory is not None:
        room = read_amount("--max-memory", max_memory, BYTES, "6GiB")
        found.append(Limit("--max-memory", max_memory, "memory", room))
    return tuple(found)
