"""A family's row checked against a model: which linears really share a sublayer's input.

Shapes cannot tell projections apart (where every head has its own keys, four of them have one
shape), but what they read can: in-projections are handed the very tensor that the sublayer is
handed, and the out-projection another one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autoprune.errors import AutoPruneError
from autoprune.models.backbone import backbone_of
from autoprune.models.families import Family


class _Traced(Exception):  # noqa: N818 - ends a forward pass that has shown enough
    pass


@torch.no_grad()
def check_row(model: Any) -> None:
    """Run two tokens through the first whole layer of a model and check its family's row.

    Args:
        model: with values, on any device; left as it was.

    Raises:
        AutoPruneError: if a linear of the layer is not in the row, or reads something else than
            the row says; or if layers are of several kinds.
    """
    backbone = backbone_of(model)
    kinds = {type(layer).__name__ for layer in backbone.layers}
    if len(kinds) > 1:
        raise _unlike(backbone.family, f"its layers are of several kinds, {', '.join(kinds)}")
    whole = [i for i, shape in enumerate(backbone.shapes) if shape.heads and shape.channels]
    if not whole:
        return
    layer = backbone.layers[whole[0]]
    seen: dict[str, Any] = {}
    handles = [
        module.register_forward_pre_hook(_remember(seen, name), with_kwargs=True)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
        or name in (backbone.family.attention.module, backbone.family.mlp.module)
    ]
    handles.append(layer.register_forward_hook(_stop))
    weight = model.get_input_embeddings().weight
    tokens = torch.zeros((1, 2, weight.shape[1]), dtype=weight.dtype, device=weight.device)
    try:
        backbone.decoder(inputs_embeds=tokens, use_cache=False)
    except _Traced:
        pass
    finally:
        for handle in handles:
            handle.remove()
    _compare(backbone.family, seen)


def _remember(seen: dict[str, Any], name: str) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[name] = args[0] if args else kwargs["hidden_states"]

    return hook


def _stop(*_: Any) -> None:
    raise _Traced


def _compare(family: Family, seen: dict[str, Any]) -> None:
    """Compare what each linear read with what the row says it reads."""
    for sublayer in (family.attention, family.mlp):
        given = seen.pop(sublayer.module)
        rows = [(projection, True) for projection in sublayer.inputs]
        for projection, shares in [*rows, (sublayer.output, False)]:
            name = f"{sublayer.module}.{projection.name}"
            if name not in seen:
                raise _unlike(family, f"{name} is no part of its layers' computation")
            if (seen.pop(name) is given) is not shares:
                reads = "another tensor than" if shares else "the very tensor of"
                raise _unlike(family, f"{name} reads {reads} the sublayer's input")
    if seen:
        raise _unlike(family, f"{sorted(seen)[0]} is a linear that the table does not know")


def _unlike(family: Family, what: str) -> AutoPruneError:
    return AutoPruneError(
        f"this variant of {family.model_type!r} cannot be pruned ({what}): use a model of plain "
        "transformers layers"
    )
