"""Seconds a token at batch 1: modelled for a device (roofline), or measured on this machine.

Modelled: each decoder layer, and the head, takes as long as reading its weights and its cache
takes at the device's bandwidth, or its arithmetic at the device's rate, whichever is longer; what
a layer and a token take beside that is added where it was measured (``autoprune profile``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoprune.cost.bytes import layer_bytes, linears_of
from autoprune.cost.deployment import Deployment, Kept, placed
from autoprune.cost.devices import Device
from autoprune.cost.flops import layer_flops
from autoprune.models.precision import precision_of
from autoprune.models.shape import BackboneSpec, LayerShape

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


def modelled_latency(
    spec: BackboneSpec, pruned: Kept, precision: str, deployment: Deployment, device: Device
) -> Latency:
    """Return the modelled time of a decoded token; see :class:`Roofline`."""
    return Roofline(spec, deployment, device).of(pruned, precision)


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
