"""The sizes that a search samples from: its budgets, read against what pruning can reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autoprune.cost.budget import RUNNING, parse_budget
from autoprune.cost.budget import Budget as Limit
from autoprune.cost.bytes import format_bytes, stored_bytes
from autoprune.cost.deployment import Deployment
from autoprune.cost.memory import memory_of
from autoprune.errors import AutoPruneError
from autoprune.models.precision import precision_beside
from autoprune.models.shape import BackboneSpec
from autoprune.pruning.allocation import reachable
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.plan import PruningPlan
from autoprune.search.candidates.bounds import (
    Bound,
    Bounds,
    cannot,
    device_of,
    prompt_of,
    said_amount,
)
from autoprune.search.candidates.even import even_plan, even_plan_of_bytes, even_plan_within
from autoprune.search.candidates.sizing import multiple_of
from autoprune.search.goal import QUANTIZE
from autoprune.search.settings import SearchSettings
from autoprune.tracking.records.terms import Budget
from autoprune.zoo import EMBEDDED

SMALLEST_SHARE = 0.6
"""Sizes are sampled from this share of the budget's parameters up to it."""

REAL_CHANNELS, REAL_MULTIPLE = 1024, 64
"""MLPs of that many channels or more are kept in multiples of 64."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of whole models that a search samples from.

    Attributes:
        smallest: in parameters; where bytes are the objective, those of the smallest span.
        budget: the bound.
        spans: precision -> smallest and largest bytes; empty where parameters are the objective.
        bounds: what candidates may take while they answer; None where no configuration says it.
        in_memory: whether spans are bytes of memory while answering.
    """

    smallest: int
    budget: Budget
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    bounds: Bounds | None = None
    in_memory: bool = False

    def kept(self, spec: BackboneSpec, size: float = 0.5) -> float:
        """Return the share of the backbone that is kept at a value of the knob ``size``.

        The middle is what a candidate keeps on average.
        """
        if not self.spans:
            whole = self.smallest + size * (self.budget.params - self.smallest)
            return (whole - spec.outside_params) / spec.backbone_params
        prompt = self.bounds.prompt if self.bounds and self.in_memory else None
        shares = [
            kept_share(spec, precision, low + size * (high - low), prompt)
            for precision, (low, high) in self.spans.items()
        ]
        return sum(shares) / len(shares)


def kept_share(
    spec: BackboneSpec, precision: str, count: float, prompt: Deployment | None = None
) -> float:
    """Return about which share of the backbone a model of ``count`` bytes keeps.

    With a ``prompt`` these are bytes of memory.
    """
    if prompt is None:
        outside, whole = stored_bytes(spec, (), precision), stored_bytes(spec, None, precision)
    else:
        outside, whole = (memory_of(spec, k, precision, prompt).total for k in ((), None))
    share = (count - outside) / (whole - outside)
    return min(1.0, max(0.0, share))


def read_sizes(
    settings: SearchSettings,
    spec: BackboneSpec,
    precision: str = "float32",
    config: Any = None,
) -> Sizes:
    """Read budgets and smallest size against the dense model and what pruning can reach.

    Args:
        settings: of the search.
        spec: the dense model.
        precision: that it is worked with in.
        config: of the dense model, which memory and latency follow from.

    Raises:
        AutoPruneError: for a budget that cannot be read, is not below the dense size, or is
            below what can be reached, alone or with others (says which and by how much); for a
            smallest size that is not below the budget; for a latency without a device.
    """
    embedded = settings.model == EMBEDDED
    limits = [
        parse_budget(text, spec, embedded=embedded, precision=precision)
        for text in settings.budgets
    ]
    floor = None
    if settings.min_size is not None:
        try:
            floor = parse_budget(settings.min_size, spec, embedded=embedded, precision=precision)
        except AutoPruneError as error:
            raise AutoPruneError(f"--min-size, read as a budget: {error}") from None
        wanted = "memory" if settings.objective == "memory" else "bytes"
        if floor.unit in ("memory", "latency", "bytes") and floor.unit != wanted:
            raise AutoPruneError(
                f"--min-size {floor.text!r} is no size that --objective {settings.objective} "
                f"counts: say it in %, params or {wanted}"
            )
    bounds = None if config is None else _bounds(settings, spec, limits, precision, config)
    stored = [limit for limit in limits if limit.unit not in RUNNING]
    if settings.objective in ("bytes", "memory"):
        return _in_bytes(settings, spec, stored, floor, precision, bounds)
    dense = Limit("", "params", spec.total_params)
    tightest = min(stored, key=lambda limit: limit.params, default=dense)
    return _in_params(settings, spec, tightest, floor, precision, bounds)


def _bounds(
    settings: SearchSettings,
    spec: BackboneSpec,
    limits: list[Limit],
    precision: str,
    config: Any,
) -> Bounds:
    """Return what memory, latency and stored bytes are bounded by, beside parameters."""
    device, prompt = device_of(settings), prompt_of(settings, config)
    found = []
    for limit in limits:
        if limit.memory is not None:
            found.append(Bound(limit.text, "memory", limit.memory))
        if limit.latency is not None:
            if device is None:
                raise AutoPruneError(
                    f"budget {limit.text!r} needs a --device to be said for: name one of "
                    "'autoprune devices', or run 'autoprune profile' and say here"
                )
            found.append(Bound(limit.text, "latency", limit.latency))
        if limit.bytes is not None and settings.objective == "memory":
            found.append(Bound(limit.text, "bytes", limit.bytes))
    bounds = Bounds(spec, prompt, device, tuple(found), settings.cost_model)
    typed = [limit for limit in limits if limit.unit in RUNNING]
    alone = typed and len(typed) == len(limits) and settings.quantize == ("none",)
    if alone and not any(bounds.broken(None, precision)):
        # The dense model keeps to it, so that there is nothing to do.
        text, unit = typed[0].text, typed[0].unit
        takes = said_amount(unit, bounds.taken(unit, None, precision))
        raise AutoPruneError(
            f"budget {text!r} is not smaller than the dense model, which takes {takes} at "
            f"{prompt.said}: ask for less, or for a share such as 60%"
        )
    if device is not None and not any(bound.unit == "memory" for bound in found):
        found.append(Bound(f"the memory of {device.name}", "memory", device.memory, implied=True))
    return Bounds(spec, prompt, device, tuple(found), settings.cost_model)


def channel_multiple(settings: SearchSettings, spec: BackboneSpec) -> int:
    """Return what widths are multiples of: as set, or what suits the model's size.

    Matrix products of real models run in tiles; widths beside them cost as much as the next
    multiple. At a few channels a layer, multiples would leave nothing to choose.
    """
    if settings.multiple is not None:
        return settings.multiple
    return REAL_MULTIPLE if max(s.channels for s in spec.layers) >= REAL_CHANNELS else 1


def _in_params(
    settings: SearchSettings,
    spec: BackboneSpec,
    tightest: Limit,
    floor: Limit | None,
    precision: str,
    bounds: Bounds | None = None,
) -> Sizes:
    stock = settings.deployable == "stock"
    multiple = channel_multiple(settings, spec)
    least, _ = reachable(spec, Allocation(axis="hybrid", stock=stock), multiple)
    if tightest.params < least and tightest.bytes is not None:
        reached = stored_bytes(spec, even_plan(spec, 0, multiple, stock), precision)
        raise AutoPruneError(
            f"budget {tightest.text!r} allows {format_bytes(tightest.bytes)}, and pruning the "
            f"backbone reaches {format_bytes(reached)} at the least: ask for that or more"
            f"{_quantise_too(spec, tightest.bytes, multiple, stock, precision)}"
        )
    if tightest.params < least:
        raise AutoPruneError(
            f"budget {tightest.text!r} allows {tightest.params:,} parameters, and pruning the "
            f"backbone reaches {least:,} ({least / spec.total_params:.0%} of the model) at the "
            f"least: ask for that or more"
        )
    text = tightest.text
    if bounds is not None and bounds.limits:
        _check_reached(settings, spec, bounds, precision, multiple, stock)
        plan = even_plan_within(spec, tightest.params, bounds, precision, multiple, stock)
        held = spec.params_of(plan.shapes)
        if bounds.load(even_plan(spec, tightest.params, multiple, stock), precision) > 1:
            tightest = replace(tightest, params=held)
        text = " and ".join(filter(None, (text, *(bound.text for bound in bounds.limits))))
    smallest = max(least, round(SMALLEST_SHARE * tightest.params))
    if floor is not None:
        smallest = floor.params
        if smallest < least:
            raise AutoPruneError(
                f"--min-size {floor.text!r} is {smallest:,} parameters, below the "
                f"{least:,} that pruning the backbone can reach: ask for that or more"
            )
        if smallest >= tightest.params:
            raise AutoPruneError(
                f"--min-size {floor.text!r} is not below the budget {text!r}: "
                "ask for less, or leave it out"
            )
    fraction = tightest.params / spec.total_params
    budget = Budget(text=text, params=tightest.params, fraction=fraction, **_running(bounds))
    return Sizes(smallest, budget, bounds=bounds)


def _running(bounds: Bounds | None) -> dict[str, Any]:
    """Return the tightest bounds on memory and latency, as a budget's record has them."""
    found: dict[str, Any] = {}
    for bound in bounds.limits if bounds is not None else ():
        if bound.unit in RUNNING:
            found[bound.unit] = min(bound.most, found.get(bound.unit, bound.most))
    return {unit: int(most) if unit == "memory" else most for unit, most in found.items()}


def _check_reached(
    settings: SearchSettings,
    spec: BackboneSpec,
    bounds: Bounds,
    precision: str,
    multiple: int,
    stock: bool,
    option: str = "",
) -> None:
    """Check that the smallest plan keeps to all bounds."""
    plan = even_plan(spec, 0, multiple, stock)
    if bounds.load(plan, precision) <= 1:
        return
    mends = _leave_out(settings.quantize, option) if option else ""
    if not option:
        for other, name in QUANTIZE.items():
            bits = precision_beside(name, precision)
            if (
                name != "float32"
                and bounds.load(even_plan(spec, 0, multiple_of(bits, multiple), stock), bits) <= 1
            ):
                mends = f", or quantise too, by --quantize {other}"
                break
    raise cannot(bounds, plan, precision, mends, f" at --quantize {option}" if option else "")


def _in_bytes(
    settings: SearchSettings,
    spec: BackboneSpec,
    limits: list[Limit],
    floor: Limit | None,
    dense: str,
    bounds: Bounds | None = None,
) -> Sizes:
    """Return a span of bytes for each precision: budgets in parameters hold beside those."""
    by_params = [limit for limit in limits if limit.bytes is None]
    in_memory = settings.objective == "memory"
    # Where memory is the size, stored bytes are a bound beside it.
    by_bytes = [limit for limit in limits if limit.bytes is not None and not in_memory]
    held = bounds if bounds is not None and bounds.limits else None
    prompt = bounds.prompt if bounds is not None and in_memory else None
    binding = [min(by_params, key=lambda limit: limit.params)] if by_params else []
    binding += [min(by_bytes, key=lambda limit: limit.bytes or 0)] if by_bytes else []
    params = binding[0].params if by_params else spec.total_params
    beside = held.limits if held is not None else ()
    text = " and ".join([*(limit.text for limit in binding), *(bound.text for bound in beside)])
    stock = settings.deployable == "stock"
    spans: dict[str, tuple[int, int]] = {}
    lowest: list[tuple[int, int]] = []

    def counted(plan: PruningPlan, precision: str) -> int:
        if prompt is not None:
            return memory_of(spec, plan, precision, prompt).total
        return stored_bytes(spec, plan, precision)

    for option in settings.quantize:
        precision = precision_beside(QUANTIZE[option], dense)
        multiple = multiple_of(precision, channel_multiple(settings, spec))

        def reached(most: int, precision: str = precision, multiple: int = multiple) -> int:
            return counted(even_plan(spec, most, multiple, stock), precision)

        if held is not None:
            _check_reached(settings, spec, held, precision, multiple, stock, option)
        least, fewest = reached(0), reachable(spec, Allocation(stock=stock), multiple)[0]
        most = min([reached(params), *(limit.bytes or 0 for limit in by_bytes)])
        if most < least or params < fewest:
            raise AutoPruneError(
                f"budget {text!r} allows {format_bytes(most)} at --quantize {option}, and pruning "
                f"the backbone reaches {format_bytes(least)} ({fewest:,} parameters) at the least: "
                f"ask for that or more{_leave_out(settings.quantize, option)}"
            )
        inside = params
        if held is not None:
            plan = even_plan_within(spec, params, held, precision, multiple, stock)
            most, inside = min(most, counted(plan, precision)), spec.params_of(plan.shapes)
        if floor is not None:
            typed = floor.bytes if floor.memory is None else floor.memory
            low = reached(floor.params) if typed is None else typed
        elif prompt is not None:
            low = reached(round(SMALLEST_SHARE * inside))
        else:
            # Cut as deep as without quantisation: what is never quantised would else leave the
            # backbone nothing of 0.6 of the bytes.
            plan = even_plan_of_bytes(spec, most, params, precision, multiple, stock)
            low = reached(round(SMALLEST_SHARE * spec.params_of(plan.shapes)))
        spans[precision] = (min(most, max(least, low)), most)
        lowest.append((least, fewest))
    largest = max(most for _, most in spans.values())
    if floor is not None:
        _check_floor(floor, text, min(lowest), (largest, params))
    running = _running(bounds)
    if in_memory:
        running["memory"] = min(largest, running.get("memory", largest))
    return Sizes(
        smallest=min(low for low, _ in spans.values()),
        budget=Budget(
            text=text,
            params=params,
            fraction=params / spec.total_params,
            bytes=None if in_memory else largest,
            **running,
        ),
        spans=spans,
        bounds=bounds,
        in_memory=in_memory,
    )


def _check_floor(floor: Limit, text: str, least: tuple[int, int], most: tuple[int, int]) -> None:
    """Check the smallest size, in its own unit; both ends are bytes and parameters."""
    typed = floor.bytes if floor.memory is None else floor.memory
    in_bytes = typed is not None
    size = floor.params if typed is None else typed
    low, high = (least[0], most[0]) if in_bytes else (least[1], most[1])
    if size < low:
        said = format_bytes(low) if in_bytes else f"{low:,} parameters"
        raise AutoPruneError(
            f"--min-size {floor.text!r} is below the {said} that pruning the backbone can reach: "
            "ask for that or more"
        )
    if size >= high:
        raise AutoPruneError(
            f"--min-size {floor.text!r} is not below the budget {text!r}: ask for less, or leave "
            "it out"
        )


def _quantise_too(spec: BackboneSpec, limit: int, multiple: int, stock: bool, dense: str) -> str:
    """Return the other mend, where a precision reaches a budget that pruning alone does not."""
    for option, name in QUANTIZE.items():
        precision = precision_beside(name, dense)
        plan = even_plan(spec, 0, multiple_of(precision, multiple), stock)
        if stored_bytes(spec, plan, precision) <= limit:
            return f", or quantise too, by --quantize {option}"
    return ""


def _leave_out(named: tuple[str, ...], option: str) -> str:
    """Return the other mend where several precisions were asked for."""
    return f", or leave {option!r} out of --quantize" if len(named) > 1 else ""
