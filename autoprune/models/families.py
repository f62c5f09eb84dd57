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

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from autoprune.errors import AutoPruneError

Part = Literal["q", "kv", "channel"]
Heads = Literal["any", "divisor", "rope", "norm", "dense"]
Cutting = Literal["whole", "marked", "grid", "grid alone", "canvas", "split"]

HEAD_RULES: dict[Heads, str] = {
    "any": "any number, since the head size is a setting of its own",
    "divisor": "divisors of the hidden size only: the configuration checks this when it is loaded",
    "rope": "any number; the dense one only where rotary factors are listed one by one, whose "
    "count is checked against the hidden size by the number of heads",
    "norm": "any number; the dense one only where queries and keys are normed, by a norm of the "
    "hidden size by the number of heads",
    "dense": "the dense number only: the head size is always the hidden size by it",
}
"""Which uniform numbers of query heads a stock class loads."""

CUTTINGS: dict[Cutting, str] = {
    "whole": "not at all: an image is one tile, or as many patches as its pixels fill",
    "marked": "not at all, with tokens of text around the image",
    "grid": "into tiles of the best of a list of resolutions; each row of patches ends in a token",
    "grid alone": "as 'grid', where the image is the only one of its prompt",
    "canvas": "into the grid of tiles whose shape is nearest to the image's",
    "split": "into tiles, after it was enlarged to a stated edge; tokens of text name each tile",
}
"""How a processor cuts an image into tiles; all but the first two add the whole image as one."""


@dataclass(frozen=True)
class Projection:
    """A linear layer inside a sublayer and what its pruned axis holds."""

    name: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Sublayer:
    """Attention or MLP of a decoder layer: its module, projections and own norms.

    Attributes:
        module: that holds the projections.
        inputs: projections that read what the sublayer is given.
        output: the one that reads what they made.
        norms: that only this sublayer uses: they leave with it.
        behind: a norm between the module and the residual stream, if there is one.
    """

    module: str
    inputs: tuple[Projection, ...]
    output: Projection
    norms: tuple[str, ...]
    behind: str = ""

    @property
    def contribution(self) -> str:
        """The module whose output is added to the residual stream."""
        return self.behind or self.module


@dataclass(frozen=True)
class Family:
    """One text backbone: names of its parts, relative to a decoder layer or the decoder.

    Attributes:
        model_type: of the text configuration.
        attention: the attention sublayer.
        mlp: the MLP sublayer.
        final_norm: the norm behind the last layer.
        own_config: whether attention reads its head count off the configuration while it runs,
            so that a layer with another count needs a configuration of its own.
        heads: which uniform head counts the stock class loads, see :data:`HEAD_RULES`.
        layer_lists: values of the text configuration with one entry a layer, which are cut to
            the kept layers.
        anchors: a list in the whole configuration, by its path; that many first layers are
            told apart by their place (image features are added behind each), so none of them
            may be dropped.
    """

    model_type: str
    attention: Sublayer
    mlp: Sublayer
    final_norm: str = "norm"
    own_config: bool = False
    heads: Heads = "any"
    layer_lists: tuple[str, ...] = ("layer_types",)
    anchors: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain JSON values, as the saved checkpoint's code reads it."""
        plain: dict[str, Any] = _listed(asdict(self))
        return plain


@dataclass(frozen=True)
class Wrapper:
    """A whole model around a text backbone, keyed on the top-level ``model_type``.

    Attributes:
        model_type: of the whole configuration.
        projector: path of the module whose input is the frozen vision features; None for a
            plain language model.
        whole: whether the model must be run by its own forward pass, because more than token
            embeddings passes from image to decoder: positions in two dimensions, features added
            behind later layers, image tokens that see each other, several tiles an image.
        beside: paths of further modules between tower and decoder, trained with the projector.
        stacked: what the processor makes of an image that keeps the image's tiles on an axis of
            their own; everything else lies one behind the other along its first axis.
        texts: text backbones that it is published with; each pair is in the contract tests.
        cutting: how its processor cuts an image into tiles, see :data:`CUTTINGS`.
    """

    model_type: str
    projector: str | None
    whole: bool = False
    beside: tuple[str, ...] = ()
    stacked: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    cutting: Cutting = "whole"


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_listed(item) for item in value]
    return value


_PROJECTIONS = Sublayer(
    module="self_attn",
    inputs=(
        Projection("q_proj", ("q",)),
        Projection("k_proj", ("kv",)),
        Projection("v_proj", ("kv",)),
    ),
    output=Projection("o_proj", ("q",)),
    norms=("input_layernorm",),
)
_GATED = Sublayer(
    module="mlp",
    inputs=(Projection("gate_proj", ("channel",)), Projection("up_proj", ("channel",))),
    output=Projection("down_proj", ("channel",)),
    norms=("post_attention_layernorm",),
)

FAMILIES: dict[str, Family] = {
    row.model_type: row
    for row in [
        Family("llama", _PROJECTIONS, _GATED, heads="divisor"),
        Family("mistral", _PROJECTIONS, _GATED),
        Family("qwen2", _PROJECTIONS, _GATED),
        Family("qwen3", _PROJECTIONS, _GATED),
        Family("gemma", _PROJECTIONS, _GATED),
        Family(
            "gemma3_text",
            replace(
                _PROJECTIONS,
                norms=("input_layernorm", "post_attention_layernorm"),
                behind="post_attention_layernorm",
            ),
            replace(
                _GATED,
                norms=("pre_feedforward_layernorm", "post_feedforward_layernorm"),
                behind="post_feedforward_layernorm",
            ),
            heads="divisor",
        ),
        # Attention and MLP stand side by side behind one norm, which stays with either.
        Family(
            "phi",
            replace(_PROJECTIONS, output=Projection("dense", ("q",)), norms=()),
            Sublayer(
                module="mlp",
                inputs=(Projection("fc1", ("channel",)),),
                output=Projection("fc2", ("channel",)),
                norms=(),
            ),
            final_norm="final_layernorm",
            heads="norm",
        ),
        Family(
            "phi3",
            replace(_PROJECTIONS, inputs=(Projection("qkv_proj", ("q", "kv", "kv")),)),
            replace(_GATED, inputs=(Projection("gate_up_proj", ("channel", "channel")),)),
            own_config=True,
            heads="rope",
        ),
        Family("qwen2_vl_text", _PROJECTIONS, _GATED, heads="dense"),
        Family("qwen2_5_vl_text", _PROJECTIONS, _GATED, heads="dense"),
        Family(
            "qwen3_vl_text",
            _PROJECTIONS,
            _GATED,
            anchors="vision_config.deepstack_visual_indexes",
        ),
    ]
}

_PIXELS = ("pixel_values",)
_MASKED = ("pixel_values", "pixel_attention_mask")
_PROJECTOR = "model.multi_modal_projector"
_GRIDS: dict[str, Cutting] = {"llava_next": "grid", "llava_onevision": "grid alone"}
_PLAIN = ("llama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma", "gemma3_text")

WRAPPERS: dict[str, Wrapper] = {
    row.model_type: row
    for row in [
        Wrapper("llava", _PROJECTOR, texts=("llama", "phi", "phi3", "mistral", "qwen2")),
        Wrapper(
            "internvl", _PROJECTOR, texts=("qwen2", "qwen3", "phi3", "llama"), cutting="canvas"
        ),
        *(
            Wrapper(
                name,
                _PROJECTOR,
                whole=True,
                stacked=_PIXELS,
                texts=("qwen2", "llama", "mistral"),
                cutting=cutting,
            )
            for name, cutting in _GRIDS.items()
        ),
        Wrapper("qwen2_vl", "model.visual.merger", whole=True, texts=("qwen2_vl_text",)),
        Wrapper("qwen2_5_vl", "model.visual.merger", whole=True, texts=("qwen2_5_vl_text",)),
        Wrapper(
            "qwen3_vl",
            "model.visual.merger",
            whole=True,
            beside=("model.visual.deepstack_merger_list",),
            texts=("qwen3_vl_text",),
        ),
        Wrapper("gemma3", _PROJECTOR, whole=True, texts=("gemma3_text",), cutting="marked"),
        *(
            Wrapper(
                name,
                "model.connector",
                whole=True,
                stacked=_MASKED,
                texts=("llama",),
                cutting="split",
            )
            for name in ("idefics3", "smolvlm")
        ),
        Wrapper("paligemma", _PROJECTOR, whole=True, texts=("gemma",)),
        *(Wrapper(name, None, texts=(name,)) for name in _PLAIN),
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


def head_rule(config: Any) -> Heads:
    """Return which uniform numbers of query heads the stock class of a model loads.

    Never ``rope`` or ``norm``: these are ``any`` or ``dense``, as the model is.
    """
    rule, text = family_of(config).heads, text_config(config)
    rope = getattr(text, "rope_parameters", None) or {}
    held = {
        "rope": bool(rope.get("short_factor") or rope.get("long_factor")),
        "norm": bool(getattr(text, "qk_layernorm", False)),
    }
    if rule not in held:
        return rule
    return "dense" if held[rule] else "any"


def anchored_layers(config: Any) -> int:
    """Return how many first layers of a whole model are told apart by their place.

    None of them may be dropped; their widths may be cut.
    """
    value: Any = config
    for name in filter(None, family_of(config).anchors.split(".")):
        value = getattr(value, name, ())
    return len(value) if isinstance(value, (list, tuple)) else 0


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
