"""The table of families: how a decoder's projections are named and what their rows mean.

A row describes one text backbone, keyed on its ``model_type``.  Every linear layer that
touches a prunable unit says what its pruned axis is made of, in order:

- ``q``: query heads, ``head_dim`` entries each;
- ``kv``: key/value heads, ``head_dim`` entries each;
- ``channel``: MLP channels, one entry each.

In-projections are sliced on their output axis (and bias), out-projections on their input
axis (their bias stays).  A fused projection simply has several parts, such as
``("q", "kv", "kv")``.  Adding a family is one row here and one line in the contract tests.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from autoprune.errors import AutoPruneError

Part = Literal["q", "kv", "channel"]


@dataclass(frozen=True)
class Projection:
    """A linear layer inside a sublayer and what its pruned axis holds."""

    name: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Sublayer:
    """Attention or MLP of a decoder layer: its module, projections and own norms.

    ``norms`` are the norms that only this sublayer uses: they leave with it.
    """

    module: str
    inputs: tuple[Projection, ...]
    output: Projection
    norms: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """One text backbone: names of its parts, relative to a decoder layer or the decoder."""

    model_type: str
    attention: Sublayer
    mlp: Sublayer
    final_norm: str = "norm"

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain JSON values, as the saved checkpoint's code reads it."""
        plain: dict[str, Any] = _listed(asdict(self))
        return plain


@dataclass(frozen=True)
class Wrapper:
    """A whole model around a text backbone, keyed on the top-level ``model_type``.

    ``projector`` is the path of the module whose input is the frozen vision features; None
    for a plain language model.
    """

    model_type: str
    projector: str | None


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_listed(item) for item in value]
    return value


FAMILIES: dict[str, Family] = {
    row.model_type: row
    for row in [
        Family(
            model_type="llama",
            attention=Sublayer(
                module="self_attn",
                inputs=(
                    Projection("q_proj", ("q",)),
                    Projection("k_proj", ("kv",)),
                    Projection("v_proj", ("kv",)),
                ),
                output=Projection("o_proj", ("q",)),
                norms=("input_layernorm",),
            ),
            mlp=Sublayer(
                module="mlp",
                inputs=(
                    Projection("gate_proj", ("channel",)),
                    Projection("up_proj", ("channel",)),
                ),
                output=Projection("down_proj", ("channel",)),
                norms=("post_attention_layernorm",),
            ),
        ),
    ]
}

WRAPPERS: dict[str, Wrapper] = {
    row.model_type: row
    for row in [
        Wrapper("llava", projector="model.multi_modal_projector"),
        Wrapper("llama", projector=None),
    ]
}


def text_config(config: Any) -> Any:
    """Return the decoder's part of a configuration: itself for a plain language model."""
    return config.get_text_config(decoder=True)


def family_of(config: Any) -> Family:
    """Return the row of a configuration's text backbone.

    Raises:
        AutoPruneError: if the backbone is in no row; the message lists the known ones.
    """
    name = str(getattr(text_config(config), "model_type", ""))
    if name not in FAMILIES:
        raise AutoPruneError(
            f"text backbone {name!r} cannot be pruned yet: use a model whose text backbone is "
            f"one of {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[name]


def wrapper_of(config: Any) -> Wrapper:
    """Return the row of the whole model.

    Raises:
        AutoPruneError: if the architecture is in no row; the message lists the known ones.
    """
    name = str(getattr(config, "model_type", ""))
    if name not in WRAPPERS:
        raise AutoPruneError(
            f"architecture {name!r} is not supported yet: use one of {', '.join(sorted(WRAPPERS))}"
        )
    return WRAPPERS[name]
