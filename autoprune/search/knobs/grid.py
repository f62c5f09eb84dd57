"""The cells of a discrete space, for a walk through all of it; and which knobs matter when."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product

from autoprune.errors import AutoPruneError
from autoprune.search.knobs.space import Choice, Space
from autoprune.search.knobs.table import PROJECTOR_SFT, RATIOS, Value

MOST_CELLS = 100_000
"""Longest walk over a space."""

_SHAPES_WIDTH = ("temperature", "attention_share", "profile_slope", "profile_curve", "window")
_OF_WIDTH = (*_SHAPES_WIDTH, "head_unit", "criterion", *RATIOS)
_OF_DEPTH = ("depth_share", "depth_unit", "contiguous")
OF_RECOVERY = (
    "recovery",
    "scope",
    "lora_rank",
    "learning_rate_scale",
    "decay",
    "data_fraction",
    "passes",
    "distill_weight",
)
"""Knobs of the recovery; the others say what is cut."""

SWITCHES = ("axis", "depth_unit", "recovery", "scope")
"""Knobs on whose value it depends whether others matter."""


def idle(knobs: Mapping[str, Value]) -> frozenset[str]:
    """Return the knobs that change nothing beside the values of the others.

    Args:
        knobs: a value for every knob of ``SWITCHES``.
    """
    found: set[str] = set()
    if knobs["axis"] == "width":
        found.update(_OF_DEPTH)
    if knobs["axis"] == "depth":
        found.update(("depth_share", *_OF_WIDTH))
    if knobs["depth_unit"] == "sublayer":
        found.add("contiguous")
    recovery = str(knobs["recovery"])
    if recovery == "none":
        found.update(set(OF_RECOVERY) - {"recovery"})
    if recovery == PROJECTOR_SFT:
        found.add("scope")
    if knobs["scope"] != "lora" or recovery == PROJECTOR_SFT:
        found.add("lora_rank")
    if "sft" not in recovery.split("+") or recovery == "sft":
        found.add("distill_weight")
    return frozenset(found)


def cells(space: Space) -> list[dict[str, Value]]:
    """Return every configuration of a discrete space, the last knob fastest.

    Configurations that differ in knobs without effect alone are one cell.

    Raises:
        AutoPruneError: for a space with a range of more than whole numbers.
    """
    axes = [[(name, value) for value in _listed(space, name)] for name in space.distributions()]
    if math.prod(map(len, axes)) > MOST_CELLS:
        raise AutoPruneError(
            f"space {space.name} has {math.prod(map(len, axes)):,} configurations, more than "
            f"{MOST_CELLS:,}: take choices out of it, or use another --sampler than grid"
        )
    found: dict[tuple[tuple[str, Value], ...], dict[str, Value]] = {}
    for chosen in product(*axes):
        cell = dict(chosen)
        without = idle(space.complete(cell))
        key = tuple(pair for pair in chosen if pair[0] not in without)
        found.setdefault(key, cell)
    return list(found.values())


def _listed(space: Space, name: str) -> tuple[Value, ...]:
    domain = space.knobs[name]
    if isinstance(domain, Choice):
        return domain.choices
    if domain.integer:
        return tuple(range(int(domain.low), int(domain.high) + 1))
    if domain.step is not None:
        count = round((domain.high - domain.low) / domain.step) + 1
        # Rounding must not lead beyond the end, where the knob's bounds and Optuna's may lie.
        return tuple(min(domain.high, domain.low + i * domain.step) for i in range(count))
    raise AutoPruneError(
        f"--sampler grid walks lists, and knob {name!r} of space {space.name} is the range "
        f"{domain.describe()}: use --space paper, or a space that lists values"
    )
