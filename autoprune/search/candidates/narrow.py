"""The knob space as a model and its search leave it: what has no effect is fixed, not sampled.

A sampler that is given a knob without effect learns from its noise. So the space is narrowed
once, before anything is drawn: knobs that cannot matter here take their default, and one that
an option fixes takes the option's value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from autoprune.errors import AutoPruneError
from autoprune.models.shape import BackboneSpec
from autoprune.pruning.allocation import reachable
from autoprune.pruning.knobs import Allocation
from autoprune.search.candidates.even import even_plan
from autoprune.search.candidates.sizes import Sizes, channel_multiple, read_sizes
from autoprune.search.candidates.sizing import multiple_of
from autoprune.search.knobs.grid import SWITCHES, idle
from autoprune.search.knobs.space import Choice, Range, Space, with_knobs
from autoprune.search.knobs.table import KNOBS, RATIOS, Value
from autoprune.search.settings import SearchSettings


@dataclass(frozen=True)
class Narrowed:
    """A space for one model, and what was taken out of it, in a line each."""

    space: Space
    notes: tuple[str, ...] = ()


def narrow(
    space: Space,
    settings: SearchSettings,
    spec: BackboneSpec,
    precision: str,
    vision: bool,
    config: Any = None,
) -> Narrowed:
    """Return the space that is worth sampling on a model.

    Args:
        space: as it was read, with its precisions.
        settings: of the search.
        spec: shape of the dense model.
        precision: that it is worked with in.
        vision: whether it sees images.
        config: of the dense model, which memory and latency follow from.

    Raises:
        AutoPruneError: for absolute sizes of which none lies within the budget, or which are
            not what the search counts; for axes of which none keeps to the bounds.
    """
    space, notes = _sizes_within(space, settings, spec, precision, config)
    space, more = _axes_within(space, settings, spec, precision, config)
    notes += more
    reasons: dict[str, str] = {}
    stock = settings.deployable == "stock"
    if stock:
        shaped = ("depth_unit", "profile_slope", "profile_curve", "window", *RATIOS)
        reasons |= dict.fromkeys(shaped, "a stock model has equal layers")
    if spec.q_per_group == 1:
        reasons["head_unit"] = "each head of this model has keys of its own"
    if not vision:
        reasons["text_weight"] = "this model sees no images"
    if settings.data_fraction is not None:
        reasons["data_fraction"] = "--data-fraction fixes it"
    always = _always_idle(space, stock)
    reasons |= dict.fromkeys(always, "the rest of the space leaves it without effect")
    dropped = {n: why for n, why in reasons.items() if n in space.distributions()}
    fixed: dict[str, Range | Choice] = {}
    gone: list[str] = []
    for name in dropped:
        value = KNOBS[name].default
        if name == "data_fraction" and settings.data_fraction is not None:
            value = settings.data_fraction
        if value is None:
            gone.append(name)
        else:
            fixed[name] = Choice(choices=(value,))
    by_reason: dict[str, list[str]] = {}
    for name, why in dropped.items():
        by_reason.setdefault(why, []).append(name)
    notes += [f"not sampled: {', '.join(names)} ({why})" for why, names in by_reason.items()]
    space = with_knobs(space, fixed)
    if gone:
        kept = {name: domain for name, domain in space.knobs.items() if name not in gone}
        space = space.model_copy(update={"knobs": kept})
    return Narrowed(space, tuple(notes))


def _always_idle(space: Space, stock: bool) -> list[str]:
    """Return the sampled knobs that matter for no value of the others."""
    found: frozenset[str] | None = None
    for values in _switched(space):
        if stock:
            values["depth_unit"] = "layer"
        found = idle(values) if found is None else found & idle(values)
    return [name for name in space.distributions() if found and name in found]


def _switched(space: Space) -> Iterator[dict[str, Value]]:
    fixed = space.complete({})
    axes = [
        space.knobs[name].values() if name in space.distributions() else (fixed[name],)
        for name in SWITCHES
    ]
    for values in product(*axes):
        yield dict(zip(SWITCHES, values, strict=True))


def _sizes_within(
    space: Space, settings: SearchSettings, spec: BackboneSpec, precision: str, config: Any
) -> tuple[Space, list[str]]:
    """Leave absolute sizes out that the search cannot have."""
    domain = space.knobs.get("backbone_removed")
    if domain is None:
        return space, []
    if settings.objective != "params":
        raise AutoPruneError(
            f"space {space.name} says sizes as shares of the backbone's parameters, which "
            f"--objective {settings.objective} does not count: use another space, or --objective "
            "params"
        )
    sizes = read_sizes(settings, spec, precision, config)
    stock = settings.deployable == "stock"
    least, _ = reachable(
        spec, Allocation(axis="hybrid", stock=stock), channel_multiple(settings, spec)
    )
    if settings.min_size is not None:
        least = sizes.smallest
    most = sizes.budget.params
    low = 1 - (most - spec.outside_params) / spec.backbone_params
    high = 1 - (least - spec.outside_params) / spec.backbone_params
    said = f"budget {sizes.budget.text} and the smallest size allow {low:.1%} to {high:.1%}"
    if isinstance(domain, Range):
        low, high = max(low, domain.low), min(high, domain.high)
        if low >= high:
            raise AutoPruneError(_no_size(space, said))
        clipped = domain.model_copy(update={"low": low, "high": high})
        found = with_knobs(space, {"backbone_removed": clipped})
        return found, _gives_way(found, sizes, settings, spec, precision)
    inside = tuple(
        value
        for value in domain.choices
        if least <= spec.total_params - round(float(value) * spec.backbone_params) <= most
    )
    if not inside:
        raise AutoPruneError(_no_size(space, said))
    left = [f"{float(value):.0%}" for value in domain.choices if value not in inside]
    notes = [f"left out: {', '.join(left)} of the backbone removed ({said})"] if left else []
    found = with_knobs(space, {"backbone_removed": Choice(choices=inside)})
    return found, notes + _gives_way(found, sizes, settings, spec, precision)


def _axes_within(
    space: Space, settings: SearchSettings, spec: BackboneSpec, precision: str, config: Any
) -> tuple[Space, list[str]]:
    """Leave axes out whose smallest plan is over a bound of memory, latency or bytes."""
    domain = space.knobs.get("axis")
    if config is None or not isinstance(domain, Choice):
        return space, []
    sizes = read_sizes(settings, spec, precision, config)
    bounds, multiple = sizes.bounds, channel_multiple(settings, spec)
    if bounds is None or not bounds.limits:
        return space, []
    stock = settings.deployable == "stock"
    over: dict[str, str] = {}
    for axis in map(str, domain.choices):
        smallest = {
            bits: even_plan(spec, 0, multiple_of(bits, multiple), stock, axis)
            for bits in sizes.spans or (precision,)
        }
        if all(bounds.load(plan, bits) > 1 for bits, plan in smallest.items()):
            bits, plan = min(smallest.items(), key=lambda item: bounds.load(item[1], item[0]))
            over[axis] = bounds.unmet(plan, bits)
    if len(over) == len(domain.choices):
        said = "; ".join(f"axis {axis} cannot keep to {unmet}" for axis, unmet in over.items())
        raise AutoPruneError(f"space {space.name}: {said}: ask for more, or use another space")
    kept = tuple(axis for axis in domain.choices if axis not in over)
    notes = [f"left out: axis {axis}, which cannot keep to {unmet}" for axis, unmet in over.items()]
    return with_knobs(space, {"axis": Choice(choices=kept)}), notes


def _gives_way(
    space: Space, sizes: Sizes, settings: SearchSettings, spec: BackboneSpec, precision: str
) -> list[str]:
    """Return a line where bounds of other units may take more than the shares of a space say.

    Of how much each trial has to give way importance decides; evenly cut models show where.
    """
    bounds = sizes.bounds
    if bounds is None or not any(bounds.broken(None, precision)):
        return []
    multiple, stock = channel_multiple(settings, spec), settings.deployable == "stock"
    axes = space.knobs["axis"].values() if "axis" in space.knobs else (KNOBS["axis"].default,)
    over = [
        f"{float(share):.0%} by {axis}"
        for share in space.knobs["backbone_removed"].values()
        for axis in axes
        if bounds.load(
            even_plan(
                spec,
                spec.total_params - round(float(share) * spec.backbone_params),
                multiple,
                stock,
                str(axis),
            ),
            precision,
        )
        > 1
    ]
    named = " and ".join(dict.fromkeys(bound.text for bound, _ in bounds.broken(None, precision)))
    such = f", as evenly cut models do at {', '.join(over)}" if over else ""
    return [
        f"cut further: what breaks {named} at the size that its knobs ask for{such}; a trial that "
        "was says so"
    ]


def _no_size(space: Space, said: str) -> str:
    return (
        f"no size of space {space.name} can be had: {said} of the backbone to be removed; ask for "
        "another --budget or --min-size"
    )
