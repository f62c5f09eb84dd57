"""A time that was measured."""

from __future__ import annotations

from typing import Literal

from pydantic import FiniteFloat

from autoprune.tracking.records.base import Record


class Timing(Record):
    """Time of a decoded token as it was measured: median of the steps, and its 95 % interval."""

    seconds: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    kind: Literal["measured"] = "measured"
