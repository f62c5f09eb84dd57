"""What a candidate may take while it answers: memory and time a token, beside its stored size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoprune.amounts import seconds_text
from autoprune.cost.bytes import format_bytes, stored_bytes
from autoprune.cost.deployment import Deployment, Kept, deployment_of
from autoprune.cost.devices import HERE, PROFILES, Device, find_device
from autoprune.cost.latency import Latency, modelled_latency
from autoprune.cost.memory import Memory, memory_of
from autoprune.errors import AutoPruneError
from autoprune.models.shape import BackboneSpec
from autoprune.search.settings import SearchSettings


@dataclass(frozen=True)
class Bound:
    """An upper bound that is no number of parameters.

    Attributes:
        text: as it was typed, or what it follows from.
        unit: ``memory``, ``latency`` or ``bytes``.
        most: bytes or seconds.
        implied: whether it was not typed, but follows from the device.
    """

    text: str
    unit: str
    most: float
    implied: bool = False

    @property
    def said(self) -> str:
        """The bound as an error names it."""
        return self.text if self.implied else f"budget {self.text!r}"


@dataclass(frozen=True)
class Bounds:
    """The prompt and the device of a search, and what its candidates may take on them.

    Attributes:
        spec: of the dense model.
        prompt: that memory and latency are said for.
        device: that latency is said for, if one was named.
        limits: that every candidate keeps to.
        cost_model: that says latency.
    """

    spec: BackboneSpec
    prompt: Deployment
    device: Device | None = None
    limits: tuple[Bound, ...] = ()
    cost_model: str = "roofline"

    def memory(self, pruned: Kept, precision: str) -> Memory:
        """Return the memory of a plan."""
        return memory_of(self.spec, pruned, precision, self.prompt)

    def latency(self, pruned: Kept, precision: str) -> Latency | None:
        """Return the modelled time of a plan's token; None without a device."""
        if self.device is None:
            return None
        return modelled_latency(
            self.spec, pruned, precision, self.prompt, self.device, self.cost_model
        )

    def taken(self, unit: str, pruned: Kept, precision: str) -> float:
        """Return what a plan takes in the unit of a bound."""
        if unit == "memory":
            return self.memory(pruned, precision).total
        if unit == "bytes":
            kept = pruned if pruned is None or not hasattr(pruned, "shapes") else pruned.shapes
            return stored_bytes(self.spec, kept, precision)
        found = self.latency(pruned, precision)
        return 0.0 if found is None else found.seconds

    def load(self, pruned: Kept, precision: str) -> float:
        """Return the largest share of a bound that a plan takes; above 1 it is over."""
        shares = (self.taken(b.unit, pruned, precision) / b.most for b in self.limits)
        return max(shares, default=0.0)

    def broken(self, pruned: Kept, precision: str) -> Iterator[tuple[Bound, float]]:
        """Yield each bound that a plan is over, and what it takes."""
        for bound in self.limits:
            taken = self.taken(bound.unit, pruned, precision)
            if taken > bound.most:
                yield bound, taken

    def unmet(self, smallest: Kept, precision: str) -> str:
        """Return the bounds that even the smallest plan of an axis is over, in words."""
        return " and ".join(
            f"{bound.text} (its smallest plan takes {said_amount(bound.unit, taken)})"
            for bound, taken in self.broken(smallest, precision)
        )


def prompt_of(settings: SearchSettings, config: Any) -> Deployment:
    """Return the prompt that a search's memory and latency are said for.

    Where nobody said what an image becomes, it is as large as the user's own usually are.

    Raises:
        AutoPruneError: the model has no positions for it, or reads no images.
    """
    size = None
    if settings.image_tokens is None and settings.data_spec is not None:
        from autoprune.data.sources.user import usual_image

        size = usual_image(settings.data_spec)
    prompt = deployment_of(
        config, settings.context, settings.images_per_prompt, settings.image_tokens, size
    )
    if size is None or not prompt.image:
        return prompt
    return replace(prompt, image=f"{prompt.image}, the middle size of the data's")


def device_of(settings: SearchSettings) -> Device | None:
    """Return the device of a search, if one was named.

    Raises:
        AutoPruneError: there is none of that name.
    """
    if settings.device is None:
        return None
    try:
        return find_device(settings.device, Path(settings.home))
    except AutoPruneError as error:
        if settings.device == HERE:
            kept = Path(settings.home) / PROFILES / f"{HERE}.json"
            raise AutoPruneError(
                f"--device {HERE}: this machine was not measured yet (there is no {kept}): run "
                "'autoprune profile' with the same --home, which keeps what it finds there"
            ) from None
        raise AutoPruneError(f"--device: {error}") from None


def said_amount(unit: str, amount: float) -> str:
    """Write an amount of a bound's unit for people."""
    return seconds_text(amount) if unit == "latency" else format_bytes(int(amount))


def cannot(
    bounds: Bounds, pruned: Kept, precision: str, mends: str = "", at: str = ""
) -> AutoPruneError:
    """Return the error of bounds that not even the smallest plan keeps to.

    Args:
        bounds: of the search.
        pruned: the smallest plan.
        precision: of it.
        mends: what else would help, behind what always does.
        at: names the option that chose the precision, where one did.
    """
    parts = []
    typed = False
    for bound, taken in bounds.broken(pruned, precision):
        typed = typed or not bound.implied
        over, least = (said_amount(bound.unit, a) for a in (taken - bound.most, taken))
        what = f"pruning the backbone reaches {least} at the least{at}"
        if bound.unit == "memory":
            found = bounds.memory(pruned, precision)
            named = (found.weights, found.cache, found.activations)
            weights, cache, rest = (format_bytes(count) for count in named)
            what += (
                f" (weights {weights}, cache {cache}, activations {rest} at {bounds.prompt.said})"
            )
        if bound.unit == "latency" and bounds.device is not None:
            what += f" (modelled for {bounds.device.name})"
        parts.append(f"{bound.said} cannot be met: {what}, {over} too much")
    mend = "ask for that or more" if typed else "name a --device with more, or a smaller prompt"
    return AutoPruneError(f"{'; '.join(parts)}; {mend}{mends}")
