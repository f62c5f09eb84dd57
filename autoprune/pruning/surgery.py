"""Surgery: the pruned model, built from copies of the kept slices only.

The dense model is never built.  The pruned one is laid out on the meta device with the
plan's shapes, then each of its tensors is sliced out of the dense arrays, one at a time; so
the peak memory is the pruned model plus one tensor, whatever the dense model's size.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from autoprune.errors import AutoPruneError
from autoprune.models.arrays import Arrays, build_empty, fill, owned_tensor, to_tensor
from autoprune.models.backbone import Backbone, backbone_of, head_dim_of
from autoprune.models.families import (
    Part,
    anchored_layers,
    family_of,
    head_rule,
    text_config,
)
from autoprune.models.shape import BackboneSpec, LayerShape, deployability
from autoprune.pruning.plan import LayerPlan, PruningPlan


def prune(
    config: Any,
    arrays: Arrays,
    plan: PruningPlan,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    *,
    spec: BackboneSpec | None = None,
    generation_config: Any = None,
) -> Any:
    """Build the model of ``plan`` with copies of the kept slices, in evaluation mode.

    Args:
        config: the dense model's configuration; not changed.
        arrays: the dense model's parameters and buffers, from ``state_arrays``; not changed
            and never aliased.
        plan: what to keep.
        dtype: of the parameters; None keeps that of the arrays.
        device: where the pruned model is put.
        spec: the dense model's spec, if known: the plan is then checked against it first.
        generation_config: the dense model's generation settings, carried over as a copy.

    Raises:
        AutoPruneError: if the plan does not fit the model or the arrays.
    """
    if spec is not None:
        plan.check(spec)
    model = build_empty(pruned_config(config, plan))
    select = _Selection(backbone_of(model), arrays, plan, _dense_widths(config))
    fill(model, select, dtype, device)
    if dtype is not None:
        model.config.dtype = dtype
    if generation_config is not None:
        model.generation_config = copy.deepcopy(generation_config)
    return model


def pruned_config(config: Any, plan: PruningPlan) -> Any:
    """Return a copy of a dense configuration for a plan's shapes.

    Where stock classes can hold them they are written as the family's own counts; otherwise
    the dense counts stay, and the shapes are recorded beside them, see ``models/layers.py``.

    Raises:
        AutoPruneError: if the plan is for another number of layers or another family, or drops
            a layer that is told apart by its place.
    """
    family = family_of(config)
    pruned = copy.deepcopy(config)
    text = text_config(pruned)
    dense_layers = text.num_hidden_layers
    if (plan.model_type, plan.num_layers) != (family.model_type, dense_layers):
        raise AutoPruneError(
            f"the plan is for {plan.num_layers} layers of {plan.model_type!r} and the model has "
            f"{dense_layers} of {family.model_type!r}: use the model the plan was made for"
        )
    if getattr(text, "autoprune", None):
        raise AutoPruneError("the model is already pruned per layer: prune the dense one instead")
    if lost := set(range(anchored_layers(config))).intersection(plan.dropped_layers):
        raise AutoPruneError(
            f"the plan drops layer {min(lost)}, behind which {config.model_type!r} adds image "
            f"features: keep the first {anchored_layers(config)} layers"
        )
    for name in family.layer_lists:
        if (entries := getattr(text, name, None)) is not None:
            setattr(text, name, [entries[layer.index] for layer in plan.layers])
    text.num_hidden_layers = len(plan.layers)
    heads, hidden = text.num_attention_heads, text.hidden_size
    if deployability(plan.shapes, head_rule(config), heads, hidden) == "stock":
        _write_counts(text, plan.shapes[0], head_dim_of(config))
    else:
        text.autoprune = {
            "format": 1,
            "family": family.to_dict(),
            "layers": [[s.heads, s.kv_heads, s.channels] for s in plan.shapes],
        }
    return pruned


def _write_counts(text: Any, shape: LayerShape, head_dim: int) -> None:
    """Write the counts of all layers into a text configuration, where they are not there yet."""
    if shape.heads != text.num_attention_heads:
        text.head_dim = head_dim  # it would follow from the number of heads otherwise
        text.num_attention_heads = shape.heads
    text.num_key_value_heads = shape.kv_heads
    text.intermediate_size = shape.channels


class _Selection:
    """Finds the values of a pruned model's tensor in the dense arrays, and copies them."""

    def __init__(
        self, backbone: Backbone, arrays: Arrays, plan: PruningPlan, widths: dict[Part, int]
    ):
        self.arrays = arrays
        self.widths = widths
        self.plan = plan
        self.head_dim = backbone.head_dim
        self.prefix = backbone.prefix + "."
        self.axes: dict[str, tuple[int, tuple[Part, ...]]] = {}
        for sublayer in (backbone.family.attention, backbone.family.mlp):
            for projection in sublayer.inputs:
                name = f"{sublayer.module}.{projection.name}"
                self.axes[f"{name}.weight"] = (0, projection.parts)
                self.axes[f"{name}.bias"] = (0, projection.parts)
            name = f"{sublayer.module}.{sublayer.output.name}"
            self.axes[f"{name}.weight"] = (1, sublayer.output.parts)

    def __call__(self, name: str) -> torch.Tensor:
        """Return a copy of the kept part of the dense tensor that ``name`` comes from."""
        if not name.startswith(self.prefix):
            return to_tensor(self._dense(name))
        place, _, tail = name.removeprefix(self.prefix).partition(".")
        layer = self.plan.layers[int(place)]
        array = self._dense(f"{self.prefix}{layer.index}.{tail}")
        if tail not in self.axes:
            return to_tensor(array)
        axis, parts = self.axes[tail]
        if sum(self.widths[part] for part in parts) != array.shape[axis]:
            raise AutoPruneError(
                f"weight {name} has shape {list(array.shape)} and the configuration says "
                f"otherwise: use the configuration that belongs to these weights"
            )
        kept = self._kept(layer, parts)
        # take copies, so no view of the dense weights gets out; and it is ten times as fast as
        # indexing with an array.
        return owned_tensor(np.take(array, kept, axis=axis))

    def _kept(self, layer: LayerPlan, parts: tuple[Part, ...]) -> np.ndarray:
        """Return the kept entries of a projection's pruned axis."""
        units: dict[Part, tuple[tuple[int, ...], int]] = {
            "q": (layer.heads, self.head_dim),
            "kv": (self.plan.kv_heads(layer), self.head_dim),
            "channel": (layer.channels, 1),
        }
        pieces, start = [], 0
        for part in parts:
            indices, size = units[part]
            entries = np.asarray(indices, dtype=np.int64)[:, None] * size + np.arange(size)
            if entries.size and entries[-1, -1] >= self.widths[part]:
                raise AutoPruneError(
                    f"layer {layer.index} of the plan keeps {part} {indices[-1]} and the model "
                    f"has {self.widths[part] // size}: use the model the plan was made for"
                )
            pieces.append(start + entries.ravel())
            start += self.widths[part]
        return np.concatenate(pieces)

    def _dense(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise AutoPruneError(f"weight {name} is missing: pass the dense model's arrays")
        return self.arrays[name]


def _dense_widths(config: Any) -> dict[Part, int]:
    """Return how many entries of a projection each kind of unit takes in the dense model."""
    text = text_config(config)
    head_dim = head_dim_of(config)
    kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return {
        "q": text.num_attention_heads * head_dim,
        "kv": kv_heads * head_dim,
        "channel": text.intermediate_size,
    }
