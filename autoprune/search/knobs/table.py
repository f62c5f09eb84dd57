"""The knobs that ``decode`` understands: what each means, its default and its legal values."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoprune.plugins import CRITERIA, LOSSES, plugin_names

Value = float | int | str | bool


@dataclass(frozen=True)
class Knob:
    """What a knob means, its default, and its legal values: numbers in bounds, or names.

    Without a default it is a knob that only the spaces which name it have.

    Attributes:
        meaning, default, low, high, names, integer: see above.
        group: of entry points whose names are legal, too; in a mix of several by ``+``, with the
            parts of ``names``.
    """

    meaning: str
    default: Value | None
    low: float = -math.inf
    high: float = math.inf
    names: tuple[Value, ...] = ()
    integer: bool = False
    group: str = ""

    def check(self, value: Value) -> str | None:
        """Return what is wrong with ``value``, or nothing."""
        if self.names:
            names = ", ".join(str(n) for n in self.names)
            if value in self.names and isinstance(value, bool) == isinstance(self.names[0], bool):
                return None
            if isinstance(value, str) and self._added(value):
                return None
            return f"{value!r} is not one of {names}"
        if isinstance(value, (bool, str)):
            return f"{value!r} is not a number"
        if self.integer and value != int(value):
            return f"{value!r} is not a whole number"
        if not self.low <= value <= self.high:
            return f"{value!r} lies outside [{self.low:g}, {self.high:g}]"
        return None

    def _added(self, value: str) -> bool:
        """Whether a value names what another package adds, alone or in a mix."""
        added = plugin_names(self.group) if self.group else ()
        parts = value.split("+")
        own = {part for name in self.names for part in str(name).split("+")} - ALONE
        return any(part in added for part in parts) and all(
            part in added or part in own for part in parts
        )


ALONE = {"none", "projector_sft"}
"""Recoveries that no loss can be mixed with."""

GROUPS = 16
"""Runs of layers that can have a keep ratio of their own, at most."""

RATIOS = tuple(f"ratio_{place}" for place in range(1, GROUPS + 1))
"""Knobs of the keep ratios, from the first run of layers to the last."""

PROJECTOR_SFT = "projector_sft"
"""A recovery that names its scope: SFT of the projector alone, whatever the scope says."""

KNOBS: dict[str, Knob] = {
    "size": Knob("target size: 0 the smallest of the search, 1 the budget", 1.0, 0, 1),
    "backbone_removed": Knob("share of the backbone removed, in place of size", None, 0, 1),
    "axis": Knob("what is cut", "hybrid", names=("width", "depth", "hybrid")),
    "depth_share": Knob("share of a hybrid cut taken by depth", 0.5, 0, 1),
    "depth_unit": Knob("what depth removes", "layer", names=("layer", "sublayer")),
    "contiguous": Knob(
        "drop one run of layers, not the least important", False, names=(False, True)
    ),
    "head_unit": Knob(
        "attention loses whole KV groups, or query heads inside each",
        "group",
        names=("group", "query"),
    ),
    "temperature": Knob("0 equal widths in all layers, 1 by importance alone", 0.5, 0, 1),
    "attention_share": Knob("how much the width cut leans on attention (1) or MLP (0)", 0.5, 0, 1),
    "profile_slope": Knob("keep more in early (+) or late (-) layers", 0.0, -1, 1),
    "profile_curve": Knob("keep more in the middle (+) or at the ends (-)", 0.0, -1, 1),
    "window": Knob("cut widths only in the study's middle layers", False, names=(False, True)),
    "protect_first": Knob("first layers left whole", 1, 0, 64, integer=True),
    "protect_last": Knob("last layers left whole", 0, 0, 64, integer=True),
    "criterion": Knob(
        "importance",
        "taylor",
        names=("taylor", "weight_taylor", "activation", "magnitude"),
        group=CRITERIA,
    ),
    "text_weight": Knob("importance by text (1) or image tokens (0)", 0.5, 0, 1),
    "rescore": Knob(
        "importance measured once, or again after each tenth of the cut",
        "once",
        names=("once", "tenths"),
    ),
    **{
        name: Knob(f"keep ratio of run {place} of the layers, beside the others", None, 0.01, 1)
        for place, name in enumerate(RATIOS, 1)
    },
    "recovery": Knob(
        "losses of the recovery",
        "sft+hidden",
        names=(
            "none",
            "sft",
            "kl",
            "reverse_kl",
            "hidden",
            "sft+kl",
            "sft+reverse_kl",
            "sft+hidden",
            "kl+hidden",
            "sft+reverse_kl+hidden",
            PROJECTOR_SFT,
        ),
        group=LOSSES,
    ),
    "distill_weight": Knob("share of the distillation losses in a mix with SFT", 0.5, 0, 1),
    "scope": Knob("what the recovery trains", "full", names=("projector", "lora", "full")),
    "lora_rank": Knob("rank of LoRA", 16, 1, 1024, integer=True),
    "learning_rate_scale": Knob("times the default for size and scope", 1.0, 1e-3, 1e3),
    "decay": Knob("how the learning rate falls to 0", "cosine", names=("cosine", "linear")),
    "data_fraction": Knob("share of the recovery data, unique samples", 1.0, 1e-6, 1),
    "passes": Knob("share of --max-recovery-samples that is spent", 1.0, 1e-3, 1),
    "precision": Knob(
        "of the finished weights, by --quantize", "float32", names=("float32", "int8", "int4")
    ),
}
"""Every knob that ``decode`` understands. One a space leaves out keeps its default."""
