"""What recovery trains: a table of scopes. The vision tower is frozen in all of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.models.backbone import backbone_of
from autoprune.models.vision import between, projector_of
from autoprune.recovery.recipe import RecoveryRecipe

Model = Any  # a transformers model; its class is chosen by the checkpoint
Parameters = dict[str, nn.Parameter]


def open_scope(model: Model, recipe: RecoveryRecipe) -> Parameters:
    """Freeze ``model`` but for what the recipe's scope trains.

    Changes the model in place: gradients are switched off and on, and ``lora`` injects its
    layers, which :func:`close_scope` merges.

    Returns:
        The trained parameters by name, in the model's order.

    Raises:
        AutoPruneError: for an unknown scope, or a projector scope on a model without one.
    """
    if recipe.scope not in SCOPES:
        raise AutoPruneError(
            f"recovery scope {recipe.scope!r} is unknown{did_you_mean(recipe.scope, SCOPES)}"
        )
    model.requires_grad_(False)
    SCOPES[recipe.scope](model, recipe)
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def close_scope(model: Model) -> None:
    """Merge LoRA layers, where there are any, into the linears that they stand on.

    The merge is done in float32, so that weights in half precision are rounded once.
    """
    from peft.tuners.lora import LoraLayer

    wrapped: list[tuple[str, Any]] = [
        (name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)
    ]
    for name, module in wrapped:
        base = module.get_base_layer()
        dtype = base.weight.dtype
        delta = sum(module.get_delta_weight(adapter).float() for adapter in module.active_adapters)
        with torch.no_grad():
            base.weight.copy_((base.weight.float() + delta).to(dtype))
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, base)
    for holder in model.modules():
        holder.__dict__.pop("peft_config", None)


def _none(model: Model, recipe: RecoveryRecipe) -> None:
    """Train nothing."""


def _projector(model: Model, recipe: RecoveryRecipe) -> None:
    if projector_of(model) is None:
        raise AutoPruneError(
            f"{model.config.model_type!r} has no projector to train: use scope 'full' or 'none'"
        )
    for module in between(model):
        module.requires_grad_(True)


def _lora(model: Model, recipe: RecoveryRecipe) -> None:
    """Add LoRA (alpha = 2 · rank) to all projections of the decoder; train it and the projector."""
    from peft import LoraConfig, inject_adapter_in_model

    targets = backbone_of(model).linear_names()
    if targets:
        config = LoraConfig(
            r=recipe.lora_rank, lora_alpha=2 * recipe.lora_rank, target_modules=targets
        )
        with _seeded(recipe.seed):
            inject_adapter_in_model(config, model)
    if projector_of(model) is not None:
        _projector(model, recipe)


def _full(model: Model, recipe: RecoveryRecipe) -> None:
    """Train everything but the vision tower: projector, decoder and head.

    The token embeddings and the head train too, tied or not, so that both kinds of model are
    treated alike. The teacher's logits are not touched by this: they come from the dense
    model's own head, which the teacher keeps a frozen copy of.
    """
    if projector_of(model) is not None:
        _projector(model, recipe)
    model.get_decoder().requires_grad_(True)
    model.get_output_embeddings().requires_grad_(True)


SCOPES: dict[str, Callable[[Model, RecoveryRecipe], None]] = {
    "none": _none,
    "projector": _projector,
    "lora": _lora,
    "full": _full,
}


@contextmanager
def _seeded(seed: int) -> Any:
    """Draw from ``seed`` inside, and leave the process's generators as they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
