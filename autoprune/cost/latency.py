"""Seconds a token at batch 1: modelled for a device (roofline), or measured on this machine.

Modelled: each decoder layer, and the head, takes as long as reading its weights and its cache
takes at the device's bandwidth, or its arithmetic at the device's rate, whichever is longer; what
a layer and a token take beside that is added where it was measured (``autoprune profile``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from autoprune.cost.bytes import layer_bytes, linears_of
from autoprune.cost.deployment import Deployment, Kept, placed
from autoprune.cost.devices import Device
from autoprune.cost.flops import layer_flops
from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.models.precision import precision_of
from autoprune.models.shape import BackboneSpec, LayerShape
from autoprune.plugins import COST_MODELS as GROUP
from autoprune.plugins import Table

Kind = Literal["modelled", "measured"]

INSTEAD: dict[str, tuple[str, ...]] = {
    "float32": ("float32", "bfloat16", "float16"),
    "bfloat16": ("bfloat16", "float16", "float32"),
}
"""Dtypes whose rate stands in for one that a device states none for, the nearest first.

Quantised weights are unpacked and multiplied in the dtype of the rest.
"""


@dataclass(frozen=True)
class Latency:
    """Time of one decoded token.

    Attributes:
        seconds: a token, at batch 1 with the whole prompt in the cache.
        kind: ``modelled`` or ``measured``; always said with the figure.
        device: name of what it is said for.
        dtype: whose rate the arithmetic was counted at; empty where the device states none, and
            bandwidth alone decides.
        low: lower end of the 95 % interval, where it was measured.
        high: upper end.
    """

    seconds: float
    kind: Kind
    device: str
    dtype: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Roofline:
    """What a device needs for a model of one architecture, ready to be asked for many plans.

    Attributes:
        spec: of the dense model.
        deployment: the prompt.
        device: that runs it.
    """

    spec: BackboneSpec
    deployment: Deployment
    device: Device

    def of(self, pruned: Kept, precision: str) -> Latency:
        """Return the time of a decoded token.

        Args:
            pruned: what is kept, see ``deployment.Kept``.
            precision: a key of ``models.precision.PRECISIONS``.
        """
        row, spec = precision_of(precision), self.spec
        dtype = rated(self.device, row.dtype)
        item = row.item_bytes
        total = self.device.step_seconds
        for place, shape in placed(spec, pruned):
            seen = self.deployment.cached(place)
            cached = item * 2 * shape.kv_heads * spec.head_dim * seen
            read = layer_bytes(spec, shape, precision) * self._seconds_a_byte(shape)
            read += cached / (self.device.cache_bandwidth or self.device.bandwidth)
            total += self._longer(read, layer_flops(spec, shape, seen), dtype)
            total += self.device.layer_seconds
        head = self.deployment.head_params
        total += self._longer(item * head / self.device.reads(spec.hidden_size), 2.0 * head, dtype)
        return Latency(total, "modelled", self.device.name, dtype)

    def _seconds_a_byte(self, shape: LayerShape) -> float:
        """Return how long a byte of a layer's weights takes to read, all matrices together."""
        if not self.device.reading:
            return 1 / self.device.bandwidth
        entries = [(rows * wide, wide) for rows, wide in linears_of(self.spec, shape)]
        seconds = sum(count / self.device.reads(wide) for count, wide in entries)
        return seconds / sum(count for count, _ in entries)

    def _longer(self, seconds: float, operations: float, dtype: str) -> float:
        return max(seconds, operations / self.device.compute[dtype]) if dtype else seconds


def rated(device: Device, dtype: str) -> str:
    """Return the dtype whose rate a device's arithmetic in ``dtype`` is counted at."""
    return next((other for other in INSTEAD[dtype] if other in device.compute), "")


CostModel = Callable[[BackboneSpec, Kept, str, Deployment, Device], float]
"""Returns the seconds of a decoded token at batch 1.

It is given the dense model's shape, what is kept of it, the precision of its weights, the prompt
and the device. Fewer units take no longer, as budgets are met by taking units away.
"""


def _roofline(
    spec: BackboneSpec, pruned: Kept, precision: str, deployment: Deployment, device: Device
) -> float:
    return Roofline(spec, deployment, device).of(pruned, precision).seconds


COST_MODELS: Table[CostModel] = Table(
    GROUP,
    {"roofline": _roofline},
    callable,
    "a function of shape, plan, precision, prompt and device",
)
"""Models of latency by name; packages may add their own (see ``plugins``)."""


def modelled_latency(
    spec: BackboneSpec,
    pruned: Kept,
    precision: str,
    deployment: Deployment,
    device: Device,
    model: str = "roofline",
) -> Latency:
    """Return the modelled time of a decoded token.

    Args:
        spec: of the dense model.
        pruned: what is kept, see ``deployment.Kept``.
        precision: a key of ``models.precision.PRECISIONS``.
        deployment: the prompt.
        device: that runs it.
        model: a name in :data:`COST_MODELS`.

    Raises:
        AutoPruneError: for an unknown model, or one that says no time above 0.
    """
    if model not in COST_MODELS:
        raise AutoPruneError(f"unknown cost model {model!r}{did_you_mean(model, COST_MODELS)}")
    seconds = float(COST_MODELS[model](spec, pruned, precision, deployment, device))
    if not (math.isfinite(seconds) and seconds > 0):
        raise AutoPruneError(
            f"cost model {model!r} says {seconds:g} s a token, which is no time above 0: mend it"
        )
    return Latency(seconds, "modelled", device.name, rated(device, precision_of(precision).dtype))


def measured(times: Sequence[float], device: str, dtype: str) -> Latency:
    """Return the median of measured times, with the order statistics that hold it at 95 %."""
    ordered = sorted(times)
    count = len(ordered)
    # Ranks of a binomial's 95 % interval around its middle.
    reach = 0.98 * count**0.5
    low = max(0, math.floor((count - 1) / 2 - reach))
    high = min(count - 1, math.ceil((count - 1) / 2 + reach))
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return Latency(middle, "measured", device, dtype, ordered[low], ordered[high])


def middle(rounds: Sequence[Latency]) -> Latency:
    """Return the middle one of measurements of one model, with an interval that holds all."""
    ordered = sorted(rounds, key=lambda found: found.seconds)
    return replace(
        ordered[(len(ordered) - 1) // 2],
        low=min(found.low or found.seconds for found in rounds),
        high=max(found.high or found.seconds for found in rounds),
    )
