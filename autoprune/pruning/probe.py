"""What is seen of one decoder layer while calibration batches pass through it.

Absolute values of gradients are taken before they are averaged: a sample at a time for weights,
a token at a time for gates; see ``importance`` for why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.data.encoding import Batch
from autoprune.models.backbone import Backbone, UnitSlice
from autoprune.pruning.blocks import Blocks
from autoprune.pruning.footprint import GRADIENTS
from autoprune.pruning.scores import IMAGE, TEXT


class Seen:
    """The batch that the probes are looking at, and how many tokens there were."""

    def __init__(self, blocks: Blocks, device: torch.device) -> None:
        self.blocks = blocks
        self.device = device
        self.masks: tuple[torch.Tensor, torch.Tensor]
        self.tokens = [0, 0]

    def read(self, batch: Batch) -> None:
        """Look at ``batch`` from now on."""
        self.masks = (batch.image_tokens, batch.valid & ~batch.image_tokens)
        for modality in (IMAGE, TEXT):
            self.tokens[modality] += int(self.masks[modality].sum())


class LayerProbe:
    """Adds up what one decoder layer shows; knows nothing of other layers."""

    def __init__(self, backbone: Backbone, index: int, seen: Seen) -> None:
        self.layer = backbone.layers[index]
        self.family = backbone.family
        self.shape = backbone.shapes[index]
        self.head_dim = backbone.head_dim
        self.slices = {
            "groups": backbone.attention_slices(index),
            "channels": backbone.mlp_slices(index),
        }
        self.seen = seen
        self.units = {
            "groups": self.shape.kv_heads,
            "channels": self.shape.channels,
            # Where every head has keys of its own, heads and groups are one.
            "heads": self.shape.heads if self.shape.heads > self.shape.kv_heads else 0,
        }
        self.weight_taylor = {kind: self._zeros(kind) for kind in self.units}
        self.gate_taylor = {kind: self._zeros(kind, 2) for kind in self.units}
        self.energy = {kind: self._zeros(kind, 2) for kind in self.units}
        self.influence = {kind: [0.0, 0.0] for kind in ("block", "attention", "mlp")}
        self.magnitude: dict[str, np.ndarray] = {}
        self._inputs: torch.Tensor | None = None
        self._residual: torch.Tensor | None = None
        self._mlp_output: torch.Tensor | None = None

    def _magnitudes(self) -> dict[str, np.ndarray]:
        """Return Σ w² of each unit, by kind."""
        total = {kind: self._zeros(kind) for kind in self.units}
        for part in [part for parts in self.slices.values() for part in parts]:
            weight = part.linear.weight.detach()
            square = weight.float().square().sum(0 if part.output else 1)
            if not part.output and part.linear.bias is not None:
                square = square + part.linear.bias.detach().float().square()
            for kind, units in self._by_unit(square[part.start : part.stop], part):
                total[kind] += units
        return {kind: sums.cpu().numpy() for kind, sums in total.items()}

    def is_finite(self) -> bool:
        """Whether nothing overflowed."""
        sums = [*self.weight_taylor.values(), *self.gate_taylor.values(), *self.energy.values()]
        influences = [value for pair in self.influence.values() for value in pair]
        return all(bool(s.isfinite().all()) for s in sums) and bool(np.isfinite(influences).all())

    def hook(self) -> Iterator[Any]:
        """Set the hooks; the caller removes the handles."""
        yield self.layer.register_forward_pre_hook(self._enter, with_kwargs=True)
        yield self.layer.register_forward_hook(self._leave)
        if self.slices["groups"]:
            attention = self.layer.get_submodule(self.family.attention.contribution)
            yield attention.register_forward_hook(self._after_attention)
        if self.slices["channels"]:
            mlp = self.layer.get_submodule(self.family.mlp.contribution)
            yield mlp.register_forward_hook(self._after_mlp)
        for slices in self.slices.values():
            for linear in {id(part.linear): part.linear for part in slices}.values():
                parts = [part for part in slices if part.linear is linear]
                yield linear.register_forward_hook(self._reader(parts))

    def unit_params(self, kind: str) -> float:
        """Return the parameters of one unit; NaN where there is none."""
        units = self.units[kind]
        if not units:
            return float("nan")
        entries = 0
        for part in self.slices["channels" if kind == "channels" else "groups"]:
            if kind == "heads" and part.part != "q":
                continue
            across = part.linear.out_features if part.output else part.linear.in_features
            bias = not part.output and part.linear.bias is not None
            entries += (part.stop - part.start) * (across + bias)
        return entries / units

    # -- influence of the layer and its sublayers -------------------------------------------

    def _enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.seen.blocks.counting:
            return
        found = args[0] if args else kwargs["hidden_states"]
        if not self.magnitude:  # here, where the weights are sure to be at hand
            self.magnitude = self._magnitudes()
        self._inputs = self._residual = found.detach()
        self._mlp_output = None

    def _after_attention(self, _: nn.Module, __: Any, output: Any) -> None:
        if not self.seen.blocks.counting:
            return
        assert self._inputs is not None
        self._residual = self._inputs + _first(output).detach()
        self._compare("attention", self._inputs, self._residual)

    def _after_mlp(self, _: nn.Module, __: Any, output: Any) -> None:
        if self.seen.blocks.counting:
            self._mlp_output = _first(output).detach()

    def _leave(self, _: nn.Module, __: Any, output: Any) -> None:
        if not self.seen.blocks.counting:
            return
        assert self._inputs is not None
        out = _first(output).detach()
        self._compare("block", self._inputs, out)
        if self._mlp_output is not None:
            self._compare("mlp", out - self._mlp_output, out)
        self._inputs = self._residual = self._mlp_output = None

    def _compare(self, kind: str, before: torch.Tensor, after: torch.Tensor) -> None:
        """Add 1 − cos of each token, one product a token, in float32."""
        distance = 1 - nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
        for modality, mask in enumerate(self.seen.masks):
            self.influence[kind][modality] += float(distance[mask].double().sum())

    # -- units -------------------------------------------------------------------------------

    def _reader(self, parts: list[UnitSlice]) -> Callable[..., None]:
        output = parts[0].output

        def read(_: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            if not self.seen.blocks.counting:
                return
            # A hook that held a tensor of the graph it hangs on would keep that graph for ever.
            seen = args[0].detach()
            if output:
                self._add_energy(parts[0], seen)
                if args[0].requires_grad:
                    args[0].register_hook(lambda grad: self._add_gate_taylor(parts[0], seen, grad))
            if out.requires_grad:
                out.register_hook(lambda grad: self._add_weight_taylor(parts, seen, grad))

        return read

    def _add_energy(self, part: UnitSlice, inputs: torch.Tensor) -> None:
        """Add a unit's energy relative to that of the residual stream it is added to."""
        assert self._residual is not None
        stream = self._residual.float().square().sum(-1, keepdim=True)
        square = inputs.float().square() / stream.clamp(min=1e-30)
        columns = part.linear.weight.detach().float().square().sum(0)
        for modality, mask in enumerate(self.seen.masks):
            total = square[mask].sum(0, dtype=torch.float64) * columns
            for kind, units in self._by_unit(total, part):
                self.energy[kind][:, modality] += units

    def _add_gate_taylor(self, part: UnitSlice, inputs: torch.Tensor, grad: torch.Tensor) -> None:
        product = inputs.float() * grad.float()
        for modality, mask in enumerate(self.seen.masks):
            for kind, units in self._by_unit(product[mask], part):
                self.gate_taylor[kind][:, modality] += units.abs().sum(0, dtype=torch.float64)

    def _add_weight_taylor(
        self, parts: list[UnitSlice], inputs: torch.Tensor, grad: torch.Tensor
    ) -> None:
        linear, output = parts[0].linear, parts[0].output
        weight, axis = linear.weight.detach(), 1 if output else 0
        units = weight.shape[axis]
        # Units a time, then rows of the batch a time: so many gradients are held, and no more.
        width = min(units, max(1, GRADIENTS * units // weight.numel()))
        step = max(1, GRADIENTS * units // (weight.numel() * width))
        entries = torch.zeros(units, dtype=torch.float64, device=weight.device)
        for start in range(0, units, width):
            span = min(width, units - start)
            held = weight.narrow(axis, start, span).float()
            for x, g in zip(inputs.split(step), grad.split(step), strict=True):
                if output:
                    x = x.narrow(-1, start, span)
                else:
                    g = g.narrow(-1, start, span)
                with _exact_products(weight):
                    gradients = torch.bmm(g.transpose(1, 2).float(), x.float())
                sums = torch.linalg.vector_norm(gradients.mul_(held), 1, dim=2 - axis)
                entries[start : start + span] += sums.sum(0, dtype=torch.float64)
        if not output and linear.bias is not None:
            shifts = grad.float().sum(1) * linear.bias.detach().float()
            entries += shifts.abs().sum(0, dtype=torch.float64)
        for part in parts:
            for kind, sums in self._by_unit(entries[part.start : part.stop], part):
                self.weight_taylor[kind] += sums

    def _by_unit(
        self, entries: torch.Tensor, part: UnitSlice
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield sums of a projection's pruned axis (the last) by each kind of unit in it."""
        if part.part == "channel":
            yield "channels", entries
            return
        kinds = ("groups", "heads") if part.part == "q" and self.units["heads"] else ("groups",)
        for kind in kinds:
            split = entries.unflatten(-1, (self.units[kind], -1))
            yield kind, split.sum(-1, dtype=torch.float64)

    def _zeros(self, kind: str, *more: int) -> torch.Tensor:
        return torch.zeros((self.units[kind], *more), dtype=torch.float64, device=self.seen.device)


@contextmanager
def _exact_products(weight: torch.Tensor) -> Iterator[None]:
    """Let a GPU's tensor cores multiply half-precision numbers that were widened to float32.

    TF32 holds their digits exactly and sums in float32, so nothing more is rounded.
    """
    if weight.device.type != "cuda" or weight.dtype not in (torch.bfloat16, torch.float16):
        yield
        return
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def _first(output: Any) -> torch.Tensor:
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found
