"""Budgets as a user writes them: ``3B-params``, ``60%``, ``3GiB-bytes``, ``40ms-latency``.

Each unit is a row of :data:`UNITS`; another unit is another row and its reader.  A budget is
an upper bound on the *whole* model.  Whether it can be reached from above is for the
allocation to say, which knows what must be kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from autoprune.cost.bytes import dense_bytes, format_bytes
from autoprune.cost.parameters import format_params
from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.models.precision import PRECISIONS
from autoprune.models.shape import BackboneSpec

SCALES: dict[str, int] = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
BYTES: dict[str, int] = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}
SECONDS: dict[str, float] = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
EXAMPLES = "such as 60%, 3B-params, 3GiB-bytes, 6GiB-memory or 40ms-latency"
_FORM = re.compile(r"(?P<number>[+-]?[\d.,]+)\s*(?P<scale>[A-Za-z]*)\s*(?P<unit>%|-\s*\w+)?")


@dataclass(frozen=True)
class Budget:
    """An upper bound on the whole model.

    Attributes:
        text: as the user wrote it.
        unit: the row of :data:`UNITS` that read it.
        params: most parameters allowed, tied tensors counted once; for a budget in bytes those
            that take as many bytes without quantisation.
        bytes: most bytes of stored weights allowed, for a budget in bytes.
        memory: most bytes while it answers, for a budget in memory. What it leaves to weights
            depends on the prompt, so that ``params`` are those of the dense model.
        latency: most seconds a token, for a budget in latency; ``params`` as for memory.
    """

    text: str
    unit: str
    params: int
    bytes: int | None = None
    memory: int | None = None
    latency: float | None = None


Limit = tuple[int, int | None]
"""Most parameters, and most bytes where those are what was typed."""


def _params(amount: Decimal, scale: str, text: str, spec: BackboneSpec) -> Limit:
    if scale.upper() not in SCALES:
        raise AutoPruneError(
            f"budget {text!r} has the unknown scale {scale!r}: use K, M or B, {EXAMPLES}"
        )
    return int(amount * SCALES[scale.upper()]), None


def _bytes(amount: Decimal, scale: str, text: str, spec: BackboneSpec) -> Limit:
    if scale not in BYTES:
        raise AutoPruneError(
            f"budget {text!r} has the unknown scale {scale!r}{did_you_mean(scale, BYTES)}: use "
            f"{', '.join(BYTES)}, {EXAMPLES}"
        )
    limit = int(amount * BYTES[scale])
    return limit, limit


def _percent(amount: Decimal, scale: str, text: str, spec: BackboneSpec) -> Limit:
    if scale:
        raise AutoPruneError(f"budget {text!r} mixes {scale!r} and %: write one, {EXAMPLES}")
    if amount >= 100:
        raise AutoPruneError(
            f"budget {text!r} is not smaller than the dense model: ask for less than 100%, "
            f"{EXAMPLES}"
        )
    return int(amount * spec.total_params / 100), None


def _memory(amount: Decimal, scale: str, text: str, spec: BackboneSpec) -> Limit:
    return spec.total_params, _bytes(amount, scale, text, spec)[1]


def _latency(amount: Decimal, scale: str, text: str, spec: BackboneSpec) -> Limit:
    if scale not in SECONDS:
        raise AutoPruneError(
            f"budget {text!r} has the unknown scale {scale!r}: use {', '.join(SECONDS)}, {EXAMPLES}"
        )
    return spec.total_params, None


# Unit -> what an amount of it allows.
UNITS: dict[str, Callable[[Decimal, str, str, BackboneSpec], Limit]] = {
    "params": _params,
    "bytes": _bytes,
    "%": _percent,
    "memory": _memory,
    "latency": _latency,
}

RUNNING = ("memory", "latency")
"""Units that say what a model takes while it answers."""


def parse_budget(
    text: str, spec: BackboneSpec, *, embedded: bool = False, precision: str = "float32"
) -> Budget:
    """Read a budget for a dense model of ``spec``.

    Args:
        text: an amount with a unit, such as ``1.4M-params`` or ``60%``.
        spec: the dense model.
        embedded: whether that is the embedded model, chosen by default; a budget beyond it
            then asks for ``--model``.
        precision: that the dense model is worked with in, which bytes are counted in.

    Raises:
        AutoPruneError: if the amount or unit cannot be read, is not above zero, or is not
            below the dense size.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise AutoPruneError(f"budget {text!r} cannot be read: write an amount, {EXAMPLES}")
    unit = (match["unit"] or "").lstrip("- ")
    if not unit:
        raise AutoPruneError(f"budget {text!r} has no unit: add one, {EXAMPLES}")
    if unit not in UNITS:
        raise AutoPruneError(
            f"budget {text!r} has the unknown unit {unit!r}{did_you_mean(unit, UNITS)}: "
            f"write one {EXAMPLES}"
        )
    try:
        amount = Decimal(match["number"])
    except InvalidOperation:
        raise AutoPruneError(
            f"budget {text!r} has the amount {match['number']!r}: write one number, {EXAMPLES}"
        ) from None
    if amount <= 0:
        raise AutoPruneError(f"budget {text!r} is not above zero: write one {EXAMPLES}")
    params, limit = UNITS[unit](amount, match["scale"], text, spec)
    if unit in RUNNING:
        seconds = float(amount) * SECONDS[match["scale"]] if unit == "latency" else None
        return Budget(text.strip(), unit, params, memory=limit, latency=seconds)
    if limit is not None:
        params = limit // PRECISIONS[precision].item_bytes
    if params >= spec.total_params:
        size = f"{format_params(spec.total_params)} parameters ({spec.total_params:,})"
        if limit is not None:
            size += f", in {precision} {format_bytes(dense_bytes(spec, precision))}"
        if embedded:
            raise AutoPruneError(
                f"budget {text!r} is not smaller than the embedded model, which has {size}: "
                "name a model of your own with --model, or ask for less, such as 60%"
            )
        raise AutoPruneError(
            f"budget {text!r} is not smaller than the dense model, which has {size}: ask for "
            "less, such as 60%"
        )
    if params < 1:
        raise AutoPruneError(f"budget {text!r} is less than one parameter: write one {EXAMPLES}")
    return Budget(text=text.strip(), unit=unit, params=params, bytes=limit)
