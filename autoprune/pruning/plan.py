"""A pruning plan: which units of which layer are kept.  Pure data, exact, JSON.

A plan together with the dense model *is* the pruned model before recovery; how it was found
does not matter.  In JSON, index sets are written as compact ranges: ``"0-3,6"`` is
``(0, 1, 2, 3, 6)`` and ``""`` is nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from operator import lt
from typing import Any

from autoprune.errors import AutoPruneError
from autoprune.identity import content_hash
from autoprune.models.shape import BackboneSpec, LayerShape

_RANGE = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")
_LAYER_KEYS = {"index", "heads", "channels"}
_PLAN_KEYS = {"model_type", "dense", "num_layers", "q_per_group", "layers"}


def format_ranges(indices: Iterable[int]) -> str:
    """Write sorted indices as compact ranges: ``(0, 1, 2, 6)`` is ``"0-2,6"``."""
    spans: list[list[int]] = []
    for index in indices:
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def parse_ranges(text: str, what: str = "ranges") -> tuple[int, ...]:
    """Read compact ranges back.

    Raises:
        AutoPruneError: if ``text`` is no list of ascending, disjoint ranges.
    """
    if not isinstance(text, str):
        raise AutoPruneError(f'{what} is {text!r}: write index ranges such as "0-3,6"')
    indices: list[int] = []
    for piece in text.split(",") if text.strip() else []:
        match = _RANGE.fullmatch(piece)
        if match is None:
            raise AutoPruneError(f'{what} has {piece!r}: write index ranges such as "0-3,6"')
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if last < first or (indices and first <= indices[-1]):
            raise AutoPruneError(f"{what} has {piece!r}: write ascending ranges without overlap")
        indices.extend(range(first, last + 1))
    return tuple(indices)


@dataclass(frozen=True)
class LayerPlan:
    """What is kept of one dense layer.

    Attributes:
        index: the layer's place in the dense decoder.
        heads: kept query heads, ascending; empty: the attention sublayer is dropped.
        channels: kept MLP channels, ascending; empty: the MLP sublayer is dropped.
    """

    index: int
    heads: tuple[int, ...]
    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        where = f"layer {self.index} of the plan"
        if self.index < 0:
            raise AutoPruneError(f"{where} has a negative index: count dense layers from 0")
        for kind, kept in (("heads", self.heads), ("channels", self.channels)):
            if not all(map(lt, kept, kept[1:])):  # runs over every channel of a model
                raise AutoPruneError(f"{where}: {kind} must be ascending and unique")
            if kept and kept[0] < 0:
                raise AutoPruneError(f"{where}: {kind} has {kept[0]}; count from 0")
        if not self.heads and not self.channels:
            raise AutoPruneError(
                f"{where} keeps neither heads nor channels: leave the layer out instead"
            )


@dataclass(frozen=True)
class PruningPlan:
    """The kept units of every kept layer; a dense layer that is absent is dropped.

    Attributes:
        model_type: the text backbone's family.
        dense: identity of the dense model's :class:`BackboneSpec`.
        num_layers: decoder layers of the dense model.
        q_per_group: query heads on one key/value head in the dense model.
        layers: kept layers, in dense order.
    """

    model_type: str
    dense: str
    num_layers: int
    q_per_group: int
    layers: tuple[LayerPlan, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise AutoPruneError("the plan keeps no layer at all: keep at least one")
        if self.q_per_group < 1:
            raise AutoPruneError(f"q_per_group is {self.q_per_group}: it must be at least 1")
        indices = [layer.index for layer in self.layers]
        if any(b <= a for a, b in pairwise(indices)):
            raise AutoPruneError(f"layers {indices} of the plan must be ascending and unique")
        if indices[-1] >= self.num_layers:
            raise AutoPruneError(
                f"layer {indices[-1]} of the plan is beyond the dense model's {self.num_layers} "
                f"layers: use 0 to {self.num_layers - 1}"
            )
        for layer in self.layers:
            self._kv_heads(layer)

    @property
    def shapes(self) -> tuple[LayerShape, ...]:
        """Shape of each kept layer, in order."""
        return tuple(
            LayerShape(len(layer.heads), len(self._kv_heads(layer)), len(layer.channels))
            for layer in self.layers
        )

    @property
    def dropped_layers(self) -> tuple[int, ...]:
        """Indices of the dense layers that the plan drops."""
        kept = {layer.index for layer in self.layers}
        return tuple(index for index in range(self.num_layers) if index not in kept)

    @property
    def identity(self) -> str:
        """A hash of everything the plan keeps."""
        return content_hash(self.to_dict())

    def kv_heads(self, layer: LayerPlan) -> tuple[int, ...]:
        """Return the key/value heads that ``layer`` keeps, ascending."""
        return self._kv_heads(layer)

    def check(self, spec: BackboneSpec) -> None:
        """Check that this plan was made for a dense model of ``spec``.

        Raises:
            AutoPruneError: naming the first thing that does not fit.
        """
        if self.model_type != spec.model_type:
            raise AutoPruneError(
                f"the plan is for {self.model_type!r} and the model is {spec.model_type!r}: "
                "use the model the plan was made for"
            )
        if self.num_layers != len(spec.layers):
            raise AutoPruneError(
                f"the plan is for {self.num_layers} layers and the model has {len(spec.layers)}: "
                "use the model the plan was made for"
            )
        if self.q_per_group != spec.q_per_group:
            raise AutoPruneError(
                f"the plan is for {self.q_per_group} query heads a KV group and the model has "
                f"{spec.q_per_group}: use the model the plan was made for"
            )
        for layer in self.layers:
            dense = spec.layers[layer.index]
            for kind, kept, count in (
                ("head", layer.heads, dense.heads),
                ("channel", layer.channels, dense.channels),
            ):
                if kept and kept[-1] >= count:
                    raise AutoPruneError(
                        f"layer {layer.index} of the plan keeps {kind} {kept[-1]} and the model "
                        f"has {count}: use the model the plan was made for"
                    )
        if self.dense != spec.identity:
            raise AutoPruneError(
                f"the plan was made for the dense shape {self.dense} and this model's is "
                f"{spec.identity}: use the model the plan was made for"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON values, index sets as compact ranges."""
        return {
            "model_type": self.model_type,
            "dense": self.dense,
            "num_layers": self.num_layers,
            "q_per_group": self.q_per_group,
            "layers": [
                {
                    "index": layer.index,
                    "heads": format_ranges(layer.heads),
                    "channels": format_ranges(layer.channels),
                }
                for layer in self.layers
            ],
        }

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    @classmethod
    def from_dict(cls, data: Any) -> PruningPlan:
        """Read a plan back and validate it.

        Raises:
            AutoPruneError: naming the key or value that is wrong.
        """
        _check_keys(data, _PLAN_KEYS, "the plan")
        for key in ("model_type", "dense"):
            if not isinstance(data[key], str):
                raise AutoPruneError(f"{key} of the plan is {data[key]!r}: it must be text")
        if not isinstance(data["layers"], list):
            raise AutoPruneError("layers of the plan must be a list of layers")
        layers = []
        for place, row in enumerate(data["layers"]):
            what = f"entry {place} of the plan's layers"
            _check_keys(row, _LAYER_KEYS, what)
            layers.append(
                LayerPlan(
                    index=_integer(row["index"], f"index of {what}"),
                    heads=parse_ranges(row["heads"], f"heads of {what}"),
                    channels=parse_ranges(row["channels"], f"channels of {what}"),
                )
            )
        return cls(
            model_type=data["model_type"],
            dense=data["dense"],
            num_layers=_integer(data["num_layers"], "num_layers of the plan"),
            q_per_group=_integer(data["q_per_group"], "q_per_group of the plan"),
            layers=tuple(layers),
        )

    @classmethod
    def from_json(cls, text: str) -> PruningPlan:
        """Read a plan from JSON text.

        Raises:
            AutoPruneError: if the text is no JSON or no plan.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise AutoPruneError(f"the plan is no JSON ({error}): pass a plan.json") from None
        return cls.from_dict(data)

    def _kv_heads(self, layer: LayerPlan) -> tuple[int, ...]:
        counts: dict[int, int] = {}
        for head in layer.heads:
            group = head // self.q_per_group
            counts[group] = counts.get(group, 0) + 1
        if len(set(counts.values())) > 1:
            raise AutoPruneError(
                f"layer {layer.index} of the plan keeps {counts} query heads by KV group: keep "
                "equally many in each kept group"
            )
        return tuple(sorted(counts))


def heads_of_groups(groups: Iterable[int], q_per_group: int) -> tuple[int, ...]:
    """Return the query heads of whole KV ``groups``, ascending."""
    return tuple(
        group * q_per_group + place for group in sorted(groups) for place in range(q_per_group)
    )


def dense_plan(spec: BackboneSpec) -> PruningPlan:
    """Return the plan that keeps everything."""
    return PruningPlan(
        model_type=spec.model_type,
        dense=spec.identity,
        num_layers=len(spec.layers),
        q_per_group=spec.q_per_group,
        layers=tuple(
            LayerPlan(index, tuple(range(shape.heads)), tuple(range(shape.channels)))
            for index, shape in enumerate(spec.layers)
        ),
    )


def _check_keys(data: Any, keys: set[str], what: str) -> None:
    if not isinstance(data, Mapping):
        raise AutoPruneError(f"{what} is {type(data).__name__}: it must be a JSON object")
    if unknown := sorted(set(data) - keys):
        raise AutoPruneError(f"{what} has unknown key {unknown[0]!r}: remove it")
    if missing := sorted(keys - set(data)):
        raise AutoPruneError(f"{what} lacks {missing[0]!r}: add it")


def _integer(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise AutoPruneError(f"{what} is {value!r}: it must be a whole number")
    return value
