"""The correctness oracle: a pruned model is the dense one with the pruned units masked to zero."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from autoprune.models.backbone import backbone_of
from autoprune.models.shape import spec_of
from autoprune.pruning.plan import LayerPlan, PruningPlan

Kept = dict[int, tuple[tuple[int, ...], tuple[int, ...]]]
"""Query heads and channels that are kept, by the dense index of each kept layer."""


def plan_of(model: Any, kept: Kept) -> PruningPlan:
    """The plan that keeps ``kept`` of a dense model."""
    spec = spec_of(model)
    layers = tuple(LayerPlan(index, *kept[index]) for index in sorted(kept))
    return PruningPlan(spec.model_type, spec.identity, len(spec.layers), spec.q_per_group, layers)


@contextmanager
def masked(model: Any, plan: PruningPlan) -> Iterator[None]:
    """Zero the pruned units of a dense model at the out-projections' input.

    A dropped sublayer adds nothing, biases and own norms included; a dropped layer is one whose
    both sublayers are dropped.
    """
    backbone = backbone_of(model)
    kept = {layer.index: layer for layer in plan.layers}
    hooks = []

    def mask_inputs(linear: torch.nn.Linear, indices: list[int]) -> None:
        keep = torch.zeros(linear.in_features, dtype=linear.weight.dtype)
        keep[indices] = 1
        hooks.append(linear.register_forward_pre_hook(lambda _, args: (args[0] * keep,)))

    def silence(module: torch.nn.Module) -> None:
        def zero(_: Any, __: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (output[0] * 0, *output[1:])
            return output * 0

        hooks.append(module.register_forward_hook(zero))

    for index, layer in enumerate(backbone.layers):
        plan_layer = kept.get(index)
        heads = plan_layer.heads if plan_layer else ()
        channels = plan_layer.channels if plan_layer else ()
        family, size = backbone.family, backbone.head_dim
        entries = [head * size + e for head in heads for e in range(size)]
        for sublayer, linear, indices in (
            (family.attention, backbone.attention_output(index), entries),
            (family.mlp, backbone.mlp_output(index), list(channels)),
        ):
            if indices:
                mask_inputs(linear, indices)
            else:
                silence(layer.get_submodule(sublayer.module))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of the positions that are no padding, [positions, vocabulary]."""
    real = inputs["attention_mask"].bool()
    inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    return model(**inputs).logits[real]
