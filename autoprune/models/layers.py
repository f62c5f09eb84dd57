"""Per-layer shapes: how a stock model takes the counts that its configuration records.

This file is read by two readers.  AutoPrune builds pruned models with it; and its text goes
as it stands into the modelling file of every saved checkpoint, so that a process without
AutoPrune can load it.  It therefore imports nothing but torch and has no state.

The record lies in the text configuration, under ``autoprune``::

    {"format": 1, "family": {...row of the table of families...},
     "layers": [[heads, kv_heads, channels], ...]}      # one row a kept layer; 0: dropped

All other values of the configuration stay those of the dense model, except the number of
layers and the list of layer types, which cover the kept layers only.
"""

from typing import Any

import torch
from torch import nn

# Everything below is copied into the modelling file of saved checkpoints.


class LayerConfig:
    """A configuration with a layer's own counts; everything else is read off the shared one.

    For attention that looks its head count up while it runs. It is no copy: a later change of
    the shared configuration, such as another attention implementation, is seen here too.
    """

    def __init__(self, shared: Any, **counts: int):
        self.__dict__.update(counts, _shared=shared)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_shared" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._shared, name)


class DroppedAttention(nn.Module):
    """An attention sublayer that was pruned away: it adds nothing to the residual stream.

    It still writes to the cache, because the cache's length is read off its layers.
    """

    def __init__(self, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx

    def forward(
        self, hidden_states: torch.Tensor, *args: Any, past_key_values: Any = None, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """Return zeros of the input's shape [B, T, H] and no attention weights."""
        if past_key_values is not None:
            batch, length = hidden_states.shape[:2]
            empty = hidden_states.new_zeros(batch, 1, length, 1)
            past_key_values.update(empty, empty, self.layer_idx)
        return torch.zeros_like(hidden_states), None


class DroppedMLP(nn.Module):
    """An MLP sublayer that was pruned away: it adds nothing to the residual stream."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return zeros of the input's shape [B, T, H]."""
        return torch.zeros_like(hidden_states)


def resize_layers(model: Any) -> None:
    """Give each decoder layer of a freshly built model the counts in its configuration.

    Parameters keep their device and dtype and hold no meaningful values afterwards.
    """
    text = model.config.get_text_config(decoder=True)
    record = text.autoprune
    family = record["family"]
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    decoder = model.get_decoder()
    if len(decoder.layers) != len(record["layers"]):
        raise ValueError(
            f"the configuration has {len(decoder.layers)} layers and shapes for "
            f"{len(record['layers'])}"
        )
    for place, (layer, counts) in enumerate(zip(decoder.layers, record["layers"], strict=True)):
        heads, kv_heads, channels = counts
        widths = {"q": heads * head_dim, "kv": kv_heads * head_dim, "channel": channels}
        attention, mlp = family["attention"], family["mlp"]
        if heads:
            module = layer.get_submodule(attention["module"])
            _resize(module, attention, widths)
            counted = {
                "num_key_value_groups": heads // kv_heads,
                "num_heads": heads,
                "num_attention_heads": heads,
                "num_key_value_heads": kv_heads,
            }
            for name, value in counted.items():
                if hasattr(module, name):
                    setattr(module, name, value)
            if family.get("own_config"):
                names = ("num_attention_heads", "num_key_value_heads")
                own = {name: counted[name] for name in names}
                module.config = LayerConfig(module.config, **own)
        else:
            _drop(layer, attention, DroppedAttention(place))
        if channels:
            _resize(layer.get_submodule(mlp["module"]), mlp, widths)
        else:
            _drop(layer, mlp, DroppedMLP())


def _resize(module: nn.Module, sublayer: dict[str, Any], widths: dict[str, int]) -> None:
    for projection in sublayer["inputs"]:
        linear: Any = module.get_submodule(projection["name"])
        linear.out_features = sum(widths[part] for part in projection["parts"])
        _reshape(linear, "weight", (linear.out_features, linear.in_features))
        if linear.bias is not None:
            _reshape(linear, "bias", (linear.out_features,))
    linear = module.get_submodule(sublayer["output"]["name"])
    linear.in_features = sum(widths[part] for part in sublayer["output"]["parts"])
    _reshape(linear, "weight", (linear.out_features, linear.in_features))


def _reshape(linear: Any, name: str, shape: tuple[int, ...]) -> None:
    old = getattr(linear, name)
    if tuple(old.shape) != shape:
        new = torch.empty(shape, dtype=old.dtype, device=old.device)
        setattr(linear, name, nn.Parameter(new, requires_grad=old.requires_grad))


def _drop(layer: nn.Module, sublayer: dict[str, Any], replacement: nn.Module) -> None:
    """Put ``replacement`` in the sublayer's place, and nothing in that of its own norms.

    The replacement keeps one projection, with no rows.  Nothing calls it and it has no
    parameters to count; but its weight stands in the checkpoint, where a loader that knows
    nothing of dropped sublayers stumbles over its shape instead of inventing the sublayer.
    """
    name = sublayer["inputs"][0]["name"]
    old: Any = layer.get_submodule(sublayer["module"]).get_submodule(name)
    empty = nn.Linear(old.in_features, 1, bias=False, device="meta")
    empty.out_features = 0
    weight = torch.empty((0, old.in_features), dtype=old.weight.dtype, device=old.weight.device)
    empty.weight = nn.Parameter(weight, requires_grad=old.weight.requires_grad)
    replacement.add_module(name, empty)
    setattr(layer, sublayer["module"], replacement)
    for norm in sublayer["norms"]:
        setattr(layer, norm, nn.Identity())
