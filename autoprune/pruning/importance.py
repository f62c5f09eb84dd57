"""Importance of every unit, from one calibration pass: a forward and a backward a batch.

Weights are frozen during the pass, so no weight gradient is ever stored: each layer's probe
reads activations and their gradients by hooks and adds up what it needs, in float64.

Absolute values of gradients are taken before they are averaged: a sample at a time for weights,
a token at a time for gates. Summed over a batch first (as LLM-Pruner does over its ten samples),
gradients of samples that pull a unit in opposite directions cancel, and importance depends on the
batch size; Michel et al. (2019, "Are Sixteen Heads Really Better than One?", section 2.3) take the
absolute value a sample for this reason. Tokens cancel in the same way: experiments/importance_check
has what either costs.

The loss of a sample is the mean cross entropy of its answer tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.data.encoding import Batch, EncodedSet, batches
from autoprune.errors import AutoPruneError
from autoprune.models.backbone import Backbone, UnitSlice, backbone_of
from autoprune.models.vision import decode, embed, head, vision_features
from autoprune.pruning.scores import IMAGE, TEXT, Importance

_CHUNK = 1 << 24
"""Entries of weight gradients that are held at a time."""


def measure(
    model: nn.Module,
    encoded: EncodedSet,
    indices: Sequence[int] | np.ndarray,
    *,
    batch_size: int = 8,
    features: torch.Tensor | np.ndarray | None = None,
) -> Importance:
    """Measure everything that importance criteria need, in one pass over calibration rows.

    Rows that the model has not memorised say more: at convergence gradients on training samples
    are near zero. Packed rows are read as they are; padding never counts.

    Args:
        model: the dense model; in evaluation mode, left as it was found.
        encoded: the calibration set.
        indices: rows of it.
        batch_size: rows at a time. The result does not depend on it, but memory does.
        features: ``[images, tokens, dim]`` from ``vision_features`` for the whole set, if they
            are at hand; otherwise computed from the set's pixels.

    Raises:
        AutoPruneError: without rows, or if anything measured is not finite.
    """
    if len(indices) == 0:
        raise AutoPruneError("importance needs calibration samples: give at least one")
    backbone = backbone_of(model)
    seen = _Seen()
    probes = [_LayerProbe(backbone, index, seen) for index in range(len(backbone.shapes))]
    device = next(model.parameters()).device
    loss, answers = 0.0, 0
    with _frozen(model), torch.enable_grad(), _hooked(probes):
        for batch in batches(encoded, indices, batch_size, device, pixels=features is None):
            seen.read(batch)
            losses = _answer_losses(model, batch, _features(model, batch, features))
            rows = batch.answer_index.rows
            counts = torch.bincount(rows, minlength=len(batch.rows)).clamp(min=1)
            (losses / counts[rows]).sum().backward()  # type: ignore[no-untyped-call]
            loss += float(losses.detach().double().sum())
            answers += len(losses)
    return _finish(probes, seen, len(indices), answers, loss / max(answers, 1))


def _features(
    model: nn.Module, batch: Batch, features: torch.Tensor | np.ndarray | None
) -> torch.Tensor | None:
    if len(batch.images) == 0:
        return None
    if features is not None:
        chosen = features[batch.images.cpu().numpy()]
        return torch.as_tensor(chosen).to(batch.input_ids.device)
    if batch.pixel_values is None:
        raise AutoPruneError("the calibration set has no pixels: give the features of its images")
    return vision_features(model, batch.pixel_values)


def _answer_losses(model: nn.Module, batch: Batch, features: torch.Tensor | None) -> torch.Tensor:
    """Return the cross entropy of each answer token, ``float32 [answers]``."""
    embeds = embed(model, batch.input_ids, features).detach().requires_grad_()
    hidden = decode(model, embeds, batch.attention_mask, batch.position_ids)
    rows, cols, targets = batch.answer_index
    logits = head(model)(hidden[rows, cols]).float()
    return nn.functional.cross_entropy(logits, targets, reduction="none")


class _Seen:
    """The batch that the probes are looking at, and how many tokens there were."""

    def __init__(self) -> None:
        self.masks: tuple[torch.Tensor, torch.Tensor]
        self.tokens = [0, 0]

    def read(self, batch: Batch) -> None:
        self.masks = (batch.image_tokens, batch.valid & ~batch.image_tokens)
        for modality in (IMAGE, TEXT):
            self.tokens[modality] += int(self.masks[modality].sum())


class _LayerProbe:
    """Adds up what one decoder layer shows; knows nothing of other layers."""

    def __init__(self, backbone: Backbone, index: int, seen: _Seen) -> None:
        self.layer = backbone.layers[index]
        self.family = backbone.family
        self.shape = backbone.shapes[index]
        self.head_dim = backbone.head_dim
        self.slices = {
            "groups": backbone.attention_slices(index),
            "channels": backbone.mlp_slices(index),
        }
        self.seen = seen
        self.weight_taylor = {kind: self._zeros(kind) for kind in self.slices}
        self.gate_taylor = {kind: self._zeros(kind, 2) for kind in self.slices}
        self.energy = {kind: self._zeros(kind, 2) for kind in self.slices}
        self.influence = {kind: [0.0, 0.0] for kind in ("block", "attention", "mlp")}
        self._inputs: torch.Tensor | None = None
        self._residual: torch.Tensor | None = None
        self._mlp_output: torch.Tensor | None = None

    def magnitude(self, kind: str) -> np.ndarray:
        """Σ w² of each unit."""
        total = self._zeros(kind)
        for part in self.slices[kind]:
            weight = part.linear.weight.detach()
            square = weight.float().square().sum(0 if part.output else 1)
            if not part.output and part.linear.bias is not None:
                square = square + part.linear.bias.detach().float().square()
            total += self._by_unit(square[part.start : part.stop], part)
        return total.cpu().numpy()

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
            attention = self.layer.get_submodule(self.family.attention.module)
            yield attention.register_forward_hook(self._after_attention)
        if self.slices["channels"]:
            mlp = self.layer.get_submodule(self.family.mlp.module)
            yield mlp.register_forward_hook(self._after_mlp)
        for kind, slices in self.slices.items():
            for linear in {id(part.linear): part.linear for part in slices}.values():
                parts = [part for part in slices if part.linear is linear]
                yield linear.register_forward_hook(self._reader(kind, parts))

    # -- influence of the layer and its sublayers -------------------------------------------

    def _enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found = args[0] if args else kwargs["hidden_states"]
        self._inputs = self._residual = found.detach()
        self._mlp_output = None

    def _after_attention(self, _: nn.Module, __: Any, output: Any) -> None:
        assert self._inputs is not None
        self._residual = self._inputs + _first(output).detach()
        self._compare("attention", self._inputs, self._residual)

    def _after_mlp(self, _: nn.Module, __: Any, output: Any) -> None:
        self._mlp_output = _first(output).detach()

    def _leave(self, _: nn.Module, __: Any, output: Any) -> None:
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

    def _reader(self, kind: str, parts: list[UnitSlice]) -> Callable[..., None]:
        output = parts[0].output

        def read(_: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            inputs = args[0]
            if output:
                self._add_energy(kind, parts[0], inputs.detach())
                if inputs.requires_grad:
                    inputs.register_hook(
                        lambda grad: self._add_gate_taylor(kind, parts[0], inputs.detach(), grad)
                    )
            if out.requires_grad:
                out.register_hook(
                    lambda grad: self._add_weight_taylor(kind, parts, inputs.detach(), grad)
                )

        return read

    def _add_energy(self, kind: str, part: UnitSlice, inputs: torch.Tensor) -> None:
        """Add a unit's energy relative to that of the residual stream it is added to."""
        assert self._residual is not None
        stream = self._residual.float().square().sum(-1, keepdim=True)
        square = inputs.float().square() / stream.clamp(min=1e-30)
        columns = part.linear.weight.detach().float().square().sum(0)
        for modality, mask in enumerate(self.seen.masks):
            total = square[mask].double().sum(0) * columns
            self.energy[kind][:, modality] += self._by_unit(total, part)

    def _add_gate_taylor(
        self, kind: str, part: UnitSlice, inputs: torch.Tensor, grad: torch.Tensor
    ) -> None:
        product = inputs.float() * grad.float()
        for modality, mask in enumerate(self.seen.masks):
            self.gate_taylor[kind][:, modality] += self._by_unit(product[mask], part).abs().sum(0)

    def _add_weight_taylor(
        self, kind: str, parts: list[UnitSlice], inputs: torch.Tensor, grad: torch.Tensor
    ) -> None:
        linear, output = parts[0].linear, parts[0].output
        weight = linear.weight.detach().float()
        step = max(1, _CHUNK // weight.numel())
        entries = torch.zeros(
            weight.shape[1 if output else 0], dtype=torch.float64, device=weight.device
        )
        for x, g in zip(inputs.split(step), grad.split(step), strict=True):
            gradients = torch.bmm(g.transpose(1, 2).float(), x.float())
            products = (gradients * weight).abs_()
            entries += products.sum(1 if output else 2).double().sum(0)
            if not output and linear.bias is not None:
                shifts = g.float().sum(1) * linear.bias.detach().float()
                entries += shifts.abs().double().sum(0)
        for part in parts:
            self.weight_taylor[kind] += self._by_unit(entries[part.start : part.stop], part)

    def _by_unit(self, entries: torch.Tensor, part: UnitSlice) -> torch.Tensor:
        """Sum entries of a projection's pruned axis (the last) over their unit."""
        if part.part == "channel":
            return entries.double()
        return entries.double().unflatten(-1, (self.shape.kv_heads, -1)).sum(-1)

    def _zeros(self, kind: str, *more: int) -> torch.Tensor:
        units = self.shape.kv_heads if kind == "groups" else self.shape.channels
        device = next(self.layer.parameters()).device
        return torch.zeros((units, *more), dtype=torch.float64, device=device)


def _first(output: Any) -> torch.Tensor:
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Freeze all weights and leave training mode; put both back as they were."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = [module for module in model.modules() if module.training]
    model.requires_grad_(False).eval()
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


@contextmanager
def _hooked(probes: list[_LayerProbe]) -> Iterator[None]:
    handles: list[Any] = []
    try:
        for probe in probes:
            handles.extend(probe.hook())
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finish(
    probes: list[_LayerProbe],
    seen: _Seen,
    samples: int,
    answers: int,
    loss: float,
) -> Importance:
    for index, probe in enumerate(probes):
        if not probe.is_finite():
            raise AutoPruneError(
                f"importance of layer {index} is not finite: measure in float32 or bfloat16"
            )
    tokens = np.array([n or np.nan for n in seen.tokens], dtype=np.float64)
    present = np.where(np.isnan(tokens), np.nan, 1.0)

    def total(what: str, kind: str) -> np.ndarray:
        return _stack([getattr(probe, what)[kind].cpu().numpy() for probe in probes])

    def influence(kind: str, sublayer: str | None = None) -> np.ndarray:
        sums = [
            probe.influence[kind] if sublayer is None or probe.slices[sublayer] else [np.nan] * 2
            for probe in probes
        ]
        mean: np.ndarray = np.array(sums) / tokens
        return mean

    return Importance(
        weight_taylor_groups=total("weight_taylor", "groups") / samples,
        weight_taylor_channels=total("weight_taylor", "channels") / samples,
        gate_taylor_groups=total("gate_taylor", "groups") / samples * present,
        gate_taylor_channels=total("gate_taylor", "channels") / samples * present,
        activation_groups=total("energy", "groups") / tokens,
        activation_channels=total("energy", "channels") / tokens,
        magnitude_groups=_stack([probe.magnitude("groups") for probe in probes]),
        magnitude_channels=_stack([probe.magnitude("channels") for probe in probes]),
        block_influence=influence("block"),
        attention_influence=influence("attention", "groups"),
        mlp_influence=influence("mlp", "channels"),
        group_params=np.array([_unit_params(probe, "groups") for probe in probes]),
        channel_params=np.array([_unit_params(probe, "channels") for probe in probes]),
        samples=samples,
        answer_tokens=answers,
        loss=loss,
    )


def _stack(rows: list[np.ndarray]) -> np.ndarray:
    """Stack rows of unequal length, filled up with NaN."""
    widest = max(len(row) for row in rows)
    stacked = np.full((len(rows), widest, *rows[0].shape[1:]), np.nan)
    for place, row in enumerate(rows):
        stacked[place, : len(row)] = row
    return stacked


def _unit_params(probe: _LayerProbe, kind: str) -> float:
    """Parameters of one unit of a layer; NaN where the sublayer is dropped."""
    units = probe.shape.kv_heads if kind == "groups" else probe.shape.channels
    if not units:
        return float("nan")
    entries = 0
    for part in probe.slices[kind]:
        across = part.linear.out_features if part.output else part.linear.in_features
        bias = not part.output and part.linear.bias is not None
        entries += (part.stop - part.start) * (across + bias)
    return entries / units
