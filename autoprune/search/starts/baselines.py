"""What every search tries first: the study's configurations, uniform cuts, and our own starts.

They are ordinary points of the knob space, at the budget and half way below it, so that the
search starts from what is known and cannot end below it on its own objective. The recovery is
the study's: SFT with hidden-state distillation at equal weights on LoRA and projector, 5 % of
the data up to half of the backbone removed and all of it beyond (arXiv 2604.24380).

Starting points are where AutoPrune itself has found good models: cuts that follow importance half
way and lean on the MLPs, recovered in full scope on all data. They count as found by the search,
not as baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autoprune.search.knobs.space import Range, Space
from autoprune.search.knobs.table import KNOBS, Value
from autoprune.search.sampling.samplers import SAMPLERS
from autoprune.search.settings import SearchSettings
from autoprune.search.work import Baseline
from autoprune.tracking.records.trial import START

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
    "depth_unit": "layer",
    "head_unit": "group",
    "rescore": "once",
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
    ("depth-then-width", 0.5),
    ("uniform-width", 0.5),
    ("paper-depth", 0.5),
    ("uniform-width", 1.0),
)
_KEEP_HEADS: dict[str, Value] = {"axis": "width", "temperature": 0.5, "criterion": "taylor"}
# Where little is left, the MLPs alone could not give it: heads then go as well.
_STARTS: dict[str, tuple[float, dict[str, Value]]] = {
    f"{START}keep-heads": (0.75, {**_KEEP_HEADS, "attention_share": 0.2}),
    f"{START}keep-heads-small": (0.25, {**_KEEP_HEADS, "attention_share": 0.3}),
}
_OWN_RECOVERY: dict[str, Value] = {**_RECOVERY, "scope": "full", "data_fraction": 1.0}
LOW_DATA, ALL_DATA, TIPPING = 0.05, 1.0, 0.5


def room(trials: int) -> int:
    """Return how many of a search's trials baselines may take: a sixth, at least one."""
    return max(1, trials // 6)


def known(
    space: Space, removed_at: Callable[[float], float], settings: SearchSettings
) -> list[Baseline]:
    """Return what a search enqueues: baselines first, then starting points of our own.

    A walk over a grid has its cells, a search with ``--no-baselines`` the sampler alone, and one
    with a warm start better starting points than these.
    """
    if not settings.warm_baselines or SAMPLERS[settings.sampler].walks:
        return []
    first = baselines(space, removed_at, room(settings.trials), settings.data_fraction)
    if settings.warm_start:
        return first
    return [*first, *starts(space, settings.trials // 12, settings.data_fraction)]


def starts(space: Space, limit: int, data: float | None = None) -> list[Baseline]:
    """Return AutoPrune's own starting points that ``space`` holds, no more than ``limit``.

    They have all data, or what ``data`` fixes for every candidate.
    """
    found = []
    for name, (size, cut) in _STARTS.items():
        knobs = _first_precision(space, {**_UNIFORM, **_OWN_RECOVERY, **cut, "size": size})
        knobs["data_fraction"] = data or knobs["data_fraction"]
        if _holds(space, knobs):
            sampled = {k: v for k, v in knobs.items() if k in space.distributions()}
            found.append(Baseline(name, sampled))
    return found[:limit]


def baselines(
    space: Space,
    removed_at: Callable[[float], float],
    limit: int,
    data: float | None = None,
) -> list[Baseline]:
    """Return the baselines that ``space`` holds, the most telling first.

    Args:
        space: a baseline with a knob that the space cannot set is left out. Where it samples
            precisions, baselines have the first, the least quantised one.
        removed_at: share of the backbone removed at a value of the knob ``size``.
        limit: no more than this many.
        data: fraction that is fixed for every candidate, in place of the study's.
    """
    found = []
    for name, size in _PLACES:
        usual = LOW_DATA if removed_at(size) <= TIPPING else ALL_DATA
        own = {"size": size, "data_fraction": data or usual}
        knobs: dict[str, Value] = {**_UNIFORM, **_RECOVERY, **_CUTS[name], **own}
        knobs = _first_precision(space, knobs)
        if _holds(space, knobs):
            sampled = {k: v for k, v in knobs.items() if k in space.distributions()}
            found.append(Baseline(name if size == 1.0 else f"{name}-half", sampled))
    return found[:limit]


def _first_precision(space: Space, knobs: Mapping[str, Value]) -> dict[str, Value]:
    precisions = space.knobs.get("precision")
    return {**knobs, **({"precision": precisions.values()[0]} if precisions else {})}


def _holds(space: Space, knobs: Mapping[str, Value]) -> bool:
    """Whether the space can set every knob to exactly this value."""
    if any(KNOBS[name].default is None for name in space.knobs):
        return False  # sizes or ratios of its own, which these configurations do not say
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
