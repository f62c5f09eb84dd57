"""How a cut is spread over a backbone: the knobs of allocation, and the usual settings of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from autoprune.errors import AutoPruneError, did_you_mean

AXES = ("width", "depth", "hybrid")
DEPTH_UNITS = ("layer", "sublayer")
HEAD_UNITS = ("group", "query")


@dataclass(frozen=True)
class Allocation:
    """How a cut is spread over a backbone. Every value is a knob of the search.

    Attributes:
        axis: ``width`` removes heads and MLP channels, ``depth`` layers, ``hybrid`` both.
        depth_share: share of a hybrid cut taken by depth, 0 to 1, as near as whole layers
            come to it from either side; more only if widths cannot give the rest.
        depth_unit: depth removes a ``layer`` at a time, or an attention or MLP ``sublayer``.
        contiguous: drop one run of layers instead of the least influential ones; says nothing
            of sublayers.
        head_unit: width removes heads by whole KV ``group``, or one ``query`` head in every
            group of a layer at a time; the same where a group has one head.
        temperature: 0: every layer loses the same share; 1: one ranking of all units, per
            parameter, decides. Between them the two ranks of a unit are blended.
        attention_share: 0: the width cut leaves attention alone; 0.5: both lose at one rate; 1:
            it leaves MLPs alone. The rates of attention and MLP stand as share to 1 − share.
        profile_slope: above 0 late layers lose more, below 0 early ones do. The rate of a layer
            at depth x in [-1, 1] is multiplied by exp(slope·P1(x) + curve·P2(x)), P1 and P2
            being the Legendre polynomials.
        profile_curve: above 0 the ends lose more, below 0 the middle does.
        protect_first: that many first layers are left whole.
        protect_last: that many last layers are left whole.
        attention_window: attention is cut in layers whose ``index / layers`` lies in
            [start, stop).
        mlp_window: the same for MLPs.
        layer_ratios: keep ratio of each layer (or of each of fewer, equal runs of layers), in
            (0, 1]; a common power of them is taken that meets the target. 1 leaves a layer whole.
        stock: the same counts in every kept layer, in numbers that stock transformers can load.
            Profiles, windows and ratios then do not apply, and the target is met within one
            uniform step.
    """

    axis: str = "hybrid"
    depth_share: float = 0.5
    depth_unit: str = "layer"
    contiguous: bool = False
    head_unit: str = "group"
    temperature: float = 0.5
    attention_share: float = 0.5
    profile_slope: float = 0.0
    profile_curve: float = 0.0
    protect_first: int = 0
    protect_last: int = 0
    attention_window: tuple[float, float] = (0.0, 1.0)
    mlp_window: tuple[float, float] = (0.0, 1.0)
    layer_ratios: tuple[float, ...] | None = None
    stock: bool = False

    def __post_init__(self) -> None:
        for name, known in (("axis", AXES), ("depth_unit", DEPTH_UNITS), ("head_unit", HEAD_UNITS)):
            value = getattr(self, name)
            if value not in known:
                what = name.replace("_", " ")
                raise AutoPruneError(f"unknown {what} {value!r}{did_you_mean(value, known)}")
        if self.stock and self.depth_unit == "sublayer":
            raise AutoPruneError(
                "stock models have both sublayers in every layer: use depth unit 'layer'"
            )
        for name in ("depth_share", "temperature", "attention_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise AutoPruneError(f"{name} is {value:g}: it must lie in [0, 1]")
        for name in ("profile_slope", "profile_curve"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise AutoPruneError(f"{name} is {value}: it must be a number")
        for name in ("protect_first", "protect_last"):
            value = getattr(self, name)
            if value < 0:
                raise AutoPruneError(f"{name} is {value}: it must be 0 or more")
        for name in ("attention_window", "mlp_window"):
            start, stop = getattr(self, name)
            if not 0 <= start <= stop <= 1:
                raise AutoPruneError(f"{name} is {(start, stop)}: it must rise within [0, 1]")
        for ratio in self.layer_ratios or ():
            if not 0 < ratio <= 1:
                raise AutoPruneError(f"layer ratio {ratio:g} is outside (0, 1]")
        if self.layer_ratios is not None and not self.layer_ratios:
            raise AutoPruneError("layer_ratios is empty: give one ratio a layer, or None")

    def to_dict(self) -> dict[str, Any]:
        """Return the knobs as plain JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Allocation:
        """Read knobs back.

        Raises:
            AutoPruneError: for an unknown knob or a value outside its range.
        """
        known = {field.name for field in fields(cls)}
        for name in data:
            if name not in known:
                raise AutoPruneError(f"unknown allocation knob {name!r}{did_you_mean(name, known)}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**values)


# Windows of the study for LLaVA (arXiv 2604.24380): attention 3-20 and MLP 3-19 of 32 layers.
_STUDY_ATTENTION, _STUDY_MLP = (3 / 32, 21 / 32), (3 / 32, 20 / 32)

BASELINES: dict[str, Allocation] = {
    "depth": Allocation(axis="depth"),
    "depth_trimmed": Allocation(axis="hybrid", depth_share=1, temperature=0),
    "width": Allocation(axis="width", temperature=0),
    "width_window": Allocation(
        axis="width",
        temperature=0,
        attention_window=_STUDY_ATTENTION,
        mlp_window=_STUDY_MLP,
    ),
    "depth_then_width": Allocation(axis="hybrid", depth_share=0.5, temperature=0),
    "global": Allocation(axis="width", temperature=1),
}
"""What is recommended or usual, by name.

``depth`` is block influence as published, in whole layers, so smaller than the target by up to
a layer; ``depth_trimmed`` drops one layer less where that is above the target and trims the rest
uniformly to the target, for comparisons at one size. ``width`` and ``width_window`` cut uniformly
in all layers and in the study's window; ``depth_then_width`` halves the cut; ``global`` ranks all
units of all layers together.
"""
