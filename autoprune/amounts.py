"""Amounts as people say them, in three figures: parameters, bytes, times."""

from __future__ import annotations

from collections.abc import Sequence

Units = Sequence[tuple[float, str]]
"""How much a unit is, and its name; the largest first."""

COUNTS: Units = ((1e9, "B"), (1e6, "M"), (1e3, "K"))
BYTES: Units = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
SECONDS: Units = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))

_FILLED = 0.9995
"""Share of a unit that three figures round up to all of it: 999.6 ms are a second."""


def unit_of(amount: float, units: Units) -> tuple[float, str]:
    """Return the largest unit that an amount fills; that of 1 where it fills none."""
    plain = next((unit for unit in units if unit[0] == 1.0), (1.0, ""))
    return next((unit for unit in units if amount >= _FILLED * unit[0]), plain)


def figures(value: float) -> str:
    """Write a number in three figures, without an exponent: of 1,010 MiB none is lost."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def text_in(amount: float, units: Units) -> str:
    """Write an amount in the unit that suits it: ``2.03M``, ``3GiB``."""
    divisor, name = unit_of(amount, units)
    return f"{figures(amount / divisor)}{name}"


def seconds_text(seconds: float) -> str:
    """Write a short time: ``41.2ms``, ``320µs``, ``1.5s``."""
    return text_in(seconds, SECONDS)
