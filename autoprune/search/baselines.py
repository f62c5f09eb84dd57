"""What every search tries first: the study's recommended configurations and plain uniform cuts.

They are ordinary points of the knob space, at the budget and half way below it, so that the
search starts from what is known and cannot end below it on its own objective. The recovery is
the study's: SFT with hidden-state distillation at equal weights on LoRA and projector, 5 % of
the data up to half of the backbone removed and all of it beyond (arXiv 2604.24380).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autoprune.search.space import Range, Space, Value
from autoprune.search.work import Baseline

_RECOVERY: dict[str, Value] = {
    "recovery": "sft+hidden",
    "distill_weight": 0.5,
    "scope": "lora",
    "learning_rate_scale": 1.0,
    "passes": 1.0,
}
_UNIFORM: dict[str, Value] = {
    "temperature": 0.0,
    "attention_share": 0.5,
    "profile_slope": 0.0,
    "profile_curve": 0.0,
    "protect_first": 0,
    "protect_last": 0,
    "contiguous": False,
    "window": False,
    "criterion": "weight_taylor",
    "text_weight": 0.5,
}
_CUTS: dict[str, dict[str, Value]] = {
    # Layers by block influence; what is left of the cut is trimmed uniformly off the rest, so
    # that the size is met exactly and rows of a table are comparable.
    "paper-depth": {"axis": "hybrid", "depth_share": 1.0},
    "paper-width": {"axis": "width", "window": True},
    "uniform-width": {"axis": "width"},
    "depth-then-width": {"axis": "hybrid", "depth_share": 0.5},
}
_PLACES: tuple[tuple[str, float], ...] = (
    ("paper-depth", 1.0),
    ("paper-width", 1.0),
    ("uniform-width", 1.0),
    ("depth-then-width", 1.0),
    ("paper-depth", 0.5),
    ("uniform-width", 0.5),
)
LOW_DATA, ALL_DATA, TIPPING = 0.05, 1.0, 0.5


def room(trials: int) -> int:
    """Return how many of a search's trials baselines may take: a sixth, at least one."""
    return max(1, trials // 6)


def baselines(space: Space, removed_at: Callable[[float], float], limit: int) -> list[Baseline]:
    """Return the baselines that ``space`` holds, the most telling first.

    Args:
        space: a baseline with a knob that the space cannot set is left out. Where it samples
            precisions, baselines have the first, the least quantised one.
        removed_at: share of the backbone removed at a value of the knob ``size``.
        limit: no more than this many.
    """
    found = []
    precisions = space.knobs.get("precision")
    for name, size in _PLACES:
        data = LOW_DATA if removed_at(size) <= TIPPING else ALL_DATA
        knobs = {**_UNIFORM, **_RECOVERY, **_CUTS[name], "size": size, "data_fraction": data}
        if precisions is not None:
            knobs["precision"] = precisions.values()[0]
        if _holds(space, knobs):
            sampled = {k: v for k, v in knobs.items() if k in space.distributions()}
            found.append(Baseline(name if size == 1.0 else f"{name}-half", sampled))
    return found[:limit]


def _holds(space: Space, knobs: Mapping[str, Value]) -> bool:
    """Whether the space can set every knob to exactly this value."""
    fixed = space.complete({})
    sampled = space.distributions()
    for name, value in knobs.items():
        domain = space.knobs.get(name)
        if name not in sampled:
            # What width ignores (depth_share, say) need not agree; axis and sizes must.
            if fixed[name] != value:
                return False
        elif isinstance(domain, Range):
            if not domain.low <= float(value) <= domain.high:
                return False
        elif domain is not None and value not in domain.choices:
            return False
    return True
