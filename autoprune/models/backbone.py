"""A view of a loaded model's decoder: its layers, and the projections that meet its units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from autoprune.models.families import Family, Part, Sublayer, family_of, text_config
from autoprune.models.shape import LayerShape, layer_shape


@dataclass(frozen=True)
class UnitSlice:
    """Where one kind of unit lies on a linear layer's pruned axis.

    Attributes:
        linear: the layer; ``weight[start:stop]`` for an in-projection (and ``bias`` likewise),
            ``weight[:, start:stop]`` for an out-projection.
        part: ``q``, ``kv`` or ``channel``.
        start: first entry on the pruned axis.
        stop: one past the last entry.
        output: whether this is the sublayer's out-projection.
    """

    linear: nn.Linear
    part: Part
    start: int
    stop: int
    output: bool


@dataclass(frozen=True)
class Backbone:
    """The decoder of a model, dense or pruned.

    Attributes:
        model: the whole model.
        family: the row of its text backbone.
        decoder: the module that holds the layers and the final norm.
        head_dim: entries of one attention head.
        shapes: unit counts of each layer.
    """

    model: nn.Module
    family: Family
    decoder: nn.Module
    head_dim: int
    shapes: tuple[LayerShape, ...]

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers, in order."""
        return list(cast(Any, self.decoder).layers)

    @property
    def q_per_group(self) -> int:
        """Query heads on one key/value head."""
        return next((s.heads // s.kv_heads for s in self.shapes if s.kv_heads), 1)

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last layer."""
        return self.decoder.get_submodule(self.family.final_norm)

    @property
    def head(self) -> nn.Module:
        """The output embedding: hidden states to logits."""
        return cast(Any, self.model).get_output_embeddings()

    @property
    def prefix(self) -> str:
        """Path of the list of layers in the whole model, such as ``model.layers``."""
        for name, module in self.model.named_modules():
            if module is self.decoder:
                return f"{name}.layers" if name else "layers"
        raise LookupError("the decoder is no part of the model")

    def attention_output(self, index: int) -> nn.Linear | None:
        """Return the attention out-projection of a layer; its input is [B, T, heads·head_dim]."""
        return self._output(index, self.family.attention, self.shapes[index].heads)

    def mlp_output(self, index: int) -> nn.Linear | None:
        """Return the MLP out-projection of a layer; its input is [B, T, channels]."""
        return self._output(index, self.family.mlp, self.shapes[index].channels)

    def attention_slices(self, index: int) -> list[UnitSlice]:
        """Return where the heads of a layer lie in its projections; empty if it is dropped."""
        return list(self._slices(index, self.family.attention, self.shapes[index].heads))

    def mlp_slices(self, index: int) -> list[UnitSlice]:
        """Return where the channels of a layer lie in its projections; empty if dropped."""
        return list(self._slices(index, self.family.mlp, self.shapes[index].channels))

    def linear_names(self) -> list[str]:
        """Return the full names of all projections of kept sublayers, such as LoRA targets."""
        names: list[str] = []
        prefix = self.prefix
        for index, shape in enumerate(self.shapes):
            for sublayer, kept in (
                (self.family.attention, shape.heads),
                (self.family.mlp, shape.channels),
            ):
                if kept:
                    names += [
                        f"{prefix}.{index}.{sublayer.module}.{projection.name}"
                        for projection in (*sublayer.inputs, sublayer.output)
                    ]
        return names

    def _output(self, index: int, sublayer: Sublayer, kept: int) -> nn.Linear | None:
        if not kept:
            return None
        module = self.layers[index].get_submodule(sublayer.module)
        return cast(nn.Linear, module.get_submodule(sublayer.output.name))

    def _slices(self, index: int, sublayer: Sublayer, kept: int) -> Iterator[UnitSlice]:
        if not kept:
            return
        shape = self.shapes[index]
        module = self.layers[index].get_submodule(sublayer.module)
        for projection in (*sublayer.inputs, sublayer.output):
            linear = cast(nn.Linear, module.get_submodule(projection.name))
            start = 0
            for part in projection.parts:
                stop = start + part_width(part, shape, self.head_dim)
                yield UnitSlice(linear, part, start, stop, projection is sublayer.output)
                start = stop


def part_width(part: Part, shape: LayerShape, head_dim: int) -> int:
    """Return how many entries of a projection's pruned axis ``part`` takes."""
    counts = {"q": shape.heads * head_dim, "kv": shape.kv_heads * head_dim}
    return counts.get(part, shape.channels)


def head_dim_of(config: Any) -> int:
    """Return the entries of one attention head."""
    text = text_config(config)
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def backbone_of(model: Any) -> Backbone:
    """Return the view of a model's decoder.

    Raises:
        AutoPruneError: if its text backbone is not in the table of families.
    """
    family = family_of(model.config)
    head_dim = head_dim_of(model.config)
    decoder = model.get_decoder()
    shapes = tuple(layer_shape(layer, family, head_dim) for layer in decoder.layers)
    return Backbone(model, family, decoder, head_dim, shapes)
