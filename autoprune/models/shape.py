"""The shape of a model in numbers: exact parameter counts without touching a weight.

Everything the search needs to know about a dense model's size fits in a
:class:`BackboneSpec`.  It is computed once, on the meta device, and the count of any pruned
shape is then a sum: ``total = outside + Σ layers``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from autoprune.errors import AutoPruneError
from autoprune.identity import content_hash
from autoprune.models.families import (
    Family,
    Heads,
    Sublayer,
    anchored_layers,
    family_of,
    head_rule,
    text_config,
    wrapper_of,
)

if TYPE_CHECKING:
    from torch import nn

Deployability = Literal["stock", "any"]


@dataclass(frozen=True)
class LayerShape:
    """Counts of one decoder layer's units; 0 heads or 0 channels: that sublayer is dropped."""

    heads: int
    kv_heads: int
    channels: int


@dataclass(frozen=True)
class BackboneSpec:
    """A dense (or already pruned) model in numbers; all counts are parameters.

    Attributes:
        model_type: the text backbone's family.
        hidden_size: width of the residual stream.
        head_dim: entries of one attention head.
        layers: shape of each decoder layer, in order.
        head_params: what one query head costs: its query rows and output columns.
        kv_head_params: what one key/value head costs: its key and value rows.
        channel_params: what one MLP channel costs.
        attention_fixed_params: what an attention sublayer costs beside its heads.
        mlp_fixed_params: what an MLP sublayer costs beside its channels.
        layer_fixed_params: what a layer costs beside its sublayers.
        outside_params: everything outside the decoder layers, tied tensors once: embeddings,
            final norm, head, projector and vision tower.
        stock_heads: which uniform numbers of query heads the stock class loads.
        anchored: that many first layers cannot be dropped, see ``anchored_layers``.
    """

    model_type: str
    hidden_size: int
    head_dim: int
    layers: tuple[LayerShape, ...]
    head_params: int
    kv_head_params: int
    channel_params: int
    attention_fixed_params: int
    mlp_fixed_params: int
    layer_fixed_params: int
    outside_params: int
    stock_heads: Heads = "any"
    anchored: int = 0

    @property
    def q_per_group(self) -> int:
        """Query heads that share one key/value head."""
        for shape in self.layers:
            if shape.kv_heads:
                return shape.heads // shape.kv_heads
        return 1

    @property
    def attention_group_params(self) -> int:
        """What one whole KV group costs: a key/value head and its query heads."""
        return self.q_per_group * self.head_params + self.kv_head_params

    @property
    def layer_params(self) -> tuple[int, ...]:
        """Parameters of each decoder layer."""
        return tuple(self.params_of_layer(shape) for shape in self.layers)

    @property
    def backbone_params(self) -> int:
        """Parameters of all decoder layers: the part that can be pruned."""
        return sum(self.layer_params)

    @property
    def total_params(self) -> int:
        """Parameters of the whole model, tied tensors once."""
        return self.outside_params + self.backbone_params

    @property
    def identity(self) -> str:
        """A hash of the shape; equal for two models of one architecture and size."""
        # What follows from the architecture alone adds nothing to it.
        rules = ("stock_heads", "anchored")
        shape = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in rules}
        return content_hash({"__type__": type(self).__name__, **shape})

    def takes_heads(self, heads: int) -> bool:
        """Whether the stock class loads a model with ``heads`` query heads in every layer."""
        dense = max(shape.heads for shape in self.layers)
        return takes_heads(self.stock_heads, heads, dense, self.hidden_size)

    def deployability(self, shapes: Iterable[LayerShape]) -> Deployability:
        """Return which class a model of this architecture with layers of ``shapes`` is in."""
        dense = max(shape.heads for shape in self.layers)
        return deployability(shapes, self.stock_heads, dense, self.hidden_size)

    def params_of_layer(self, shape: LayerShape) -> int:
        """Return the parameters of a layer of ``shape``."""
        count = self.layer_fixed_params
        if shape.heads:
            count += self.attention_fixed_params
            count += shape.heads * self.head_params + shape.kv_heads * self.kv_head_params
        if shape.channels:
            count += self.mlp_fixed_params + shape.channels * self.channel_params
        return count

    def params_of(self, shapes: Iterable[LayerShape]) -> int:
        """Return the parameters of the whole model with layers of ``shapes``."""
        return self.outside_params + sum(self.params_of_layer(shape) for shape in shapes)

    def with_layers(self, shapes: Iterable[LayerShape]) -> BackboneSpec:
        """Return the spec of a model of this architecture with layers of ``shapes``."""
        return replace(self, layers=tuple(shapes))


def takes_heads(rule: Heads, heads: int, dense: int, hidden_size: int) -> bool:
    """Return whether a stock class loads ``heads`` query heads where the dense model has others."""
    return heads == dense or (heads > 0 and _HEAD_RULES[rule](heads, hidden_size))


def deployability(
    shapes: Iterable[LayerShape], rule: Heads, dense_heads: int, hidden_size: int
) -> Deployability:
    """Return which class a model is in.

    ``stock`` loads with plain ``from_pretrained``: all layers have one shape, no sublayer is
    dropped, and the number of heads is one that the family's configuration takes. All else is
    ``any``, and brings its own loading code.
    """
    first, *others = set(shapes)
    whole = not others and first.heads > 0 and first.channels > 0
    return "stock" if whole and takes_heads(rule, first.heads, dense_heads, hidden_size) else "any"


_HEAD_RULES: dict[Heads, Callable[[int, int], bool]] = {
    "any": lambda heads, hidden: True,
    "divisor": lambda heads, hidden: hidden % heads == 0,
    "dense": lambda heads, hidden: False,
}


def spec_of(model_or_config: Any) -> BackboneSpec:
    """Return the spec of a model, or of a configuration (built on the meta device).

    Raises:
        AutoPruneError: if the architecture or its text backbone is not in the tables, or if
            the layers hold parameters that the family's row does not explain.
    """
    import torch

    if isinstance(model_or_config, torch.nn.Module):
        return _spec_of_model(model_or_config)
    return _spec_of_model(meta_model(model_or_config))


def meta_model(config: Any) -> nn.Module:
    """Build the dense model of ``config`` on the meta device: shapes, no weights."""
    import torch

    with torch.device("meta"):
        return model_class(config)(config)


def model_class(config: Any) -> Any:
    """Return the transformers class that holds a whole model of ``config``, with its head."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    auto = AutoModelForImageTextToText if wrapper_of(config).projector else AutoModelForCausalLM
    return auto._model_mapping[type(config)]


def layer_shape(layer: nn.Module, family: Family, head_dim: int) -> LayerShape:
    """Read the unit counts of a decoder layer off its projections."""
    widths: dict[str, int] = {"q": 0, "kv": 0, "channel": 0}
    for sublayer in (family.attention, family.mlp):
        module = layer.get_submodule(sublayer.module)
        linear = getattr(module, sublayer.output.name, None)
        if linear is None:
            continue
        widths[sublayer.output.parts[0]] = linear.in_features
        for projection in sublayer.inputs:
            missing = [part for part in projection.parts if widths[part] == 0]
            if missing:
                known = sum(widths[part] for part in projection.parts)
                rest = getattr(module, projection.name).out_features - known
                for part in set(missing):
                    widths[part] = rest // len(missing)
    return LayerShape(widths["q"] // head_dim, widths["kv"] // head_dim, widths["channel"])


def _spec_of_model(model: nn.Module) -> BackboneSpec:
    config = model.config
    family = family_of(config)
    text = text_config(config)
    decoder: Any = cast(Any, model).get_decoder()
    hidden = int(text.hidden_size)
    head_dim = int(getattr(text, "head_dim", None) or hidden // text.num_attention_heads)
    layers = list(decoder.layers)
    shapes = tuple(layer_shape(layer, family, head_dim) for layer in layers)
    attention = next((la for la, s in zip(layers, shapes, strict=True) if s.heads), None)
    mlp = next((la for la, s in zip(layers, shapes, strict=True) if s.channels), None)
    per = {"q": 0, "kv": 0, "channel": 0}
    fixed = [0, 0]
    for i, (layer, sublayer) in enumerate(((attention, family.attention), (mlp, family.mlp))):
        if layer is None:
            continue
        for part, entries in _entries(layer, sublayer):
            per[part] += entries
        fixed[i] = _count(layer.get_submodule(sublayer.module)) + sum(
            _count(layer.get_submodule(norm)) for norm in sublayer.norms
        )
        shape = shapes[layers.index(layer)]
        widths = {"q": shape.heads * head_dim, "kv": shape.kv_heads * head_dim}
        widths["channel"] = shape.channels
        fixed[i] -= sum(entries * widths[part] for part, entries in _entries(layer, sublayer))
    total = _count(model)
    spec = BackboneSpec(
        model_type=family.model_type,
        hidden_size=hidden,
        head_dim=head_dim,
        layers=shapes,
        head_params=per["q"] * head_dim,
        kv_head_params=per["kv"] * head_dim,
        channel_params=per["channel"],
        attention_fixed_params=fixed[0],
        mlp_fixed_params=fixed[1],
        layer_fixed_params=_layer_fixed(layers, family),
        outside_params=total - sum(_count(layer) for layer in layers),
        stock_heads=head_rule(config),
        anchored=anchored_layers(config),
    )
    for index, (layer, counted) in enumerate(zip(layers, spec.layer_params, strict=True)):
        if _count(layer) != counted:
            raise AutoPruneError(
                f"layer {index} holds {_count(layer)} parameters where its shape "
                f"{shapes[index]} explains {counted}: this variant of {family.model_type!r} is "
                "not supported; use a model of plain transformers layers"
            )
    return spec


def _entries(layer: nn.Module, sublayer: Sublayer) -> Iterator[tuple[str, int]]:
    """Yield for each part of each projection how many parameters one entry of it holds."""
    module = layer.get_submodule(sublayer.module)
    for projection in sublayer.inputs:
        linear = getattr(module, projection.name)
        for part in projection.parts:
            yield part, linear.in_features + (linear.bias is not None)
    yield sublayer.output.parts[0], getattr(module, sublayer.output.name).out_features


def _layer_fixed(layers: list[nn.Module], family: Family) -> int:
    """Return the parameters of a layer that belong to neither sublayer."""
    if not layers:
        return 0
    layer = layers[0]
    owned = sum(
        _count(layer.get_submodule(name))
        for sublayer in (family.attention, family.mlp)
        for name in (sublayer.module, *sublayer.norms)
    )
    return _count(layer) - owned


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
