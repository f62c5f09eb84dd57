"""The sizes that a search samples from: its budgets, read against what pruning can reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autoprune.cost.budget import Budget as Limit
from autoprune.cost.budget import parse_budget
from autoprune.cost.bytes import format_bytes, stored_bytes
from autoprune.errors import AutoPruneError
from autoprune.models.precision import precision_beside
from autoprune.models.shape import BackboneSpec
from autoprune.pruning.allocation import reachable
from autoprune.pruning.knobs import Allocation
from autoprune.search.candidates.sizing import even_plan, even_plan_of_bytes, multiple_of
from autoprune.search.settings import QUANTIZE, SearchSettings
from autoprune.tracking.records import Budget
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
    """

    smallest: int
    budget: Budget
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def kept(self, spec: BackboneSpec, size: float = 0.5) -> float:
        """Return the share of the backbone that is kept at a value of the knob ``size``.

        The middle is what a candidate keeps on average.
        """
        if not self.spans:
            whole = self.smallest + size * (self.budget.params - self.smallest)
            return (whole - spec.outside_params) / spec.backbone_params
        shares = [
            kept_share(spec, precision, low + size * (high - low))
            for precision, (low, high) in self.spans.items()
        ]
        return sum(shares) / len(shares)


def kept_share(spec: BackboneSpec, precision: str, count: float) -> float:
    """Return about which share of the backbone a model of ``count`` bytes keeps."""
    outside = stored_bytes(spec, (), precision)
    share = (count - outside) / (stored_bytes(spec, None, precision) - outside)
    return min(1.0, max(0.0, share))


def read_sizes(settings: SearchSettings, spec: BackboneSpec, precision: str = "float32") -> Sizes:
    """Read budgets and smallest size against the dense model and what pruning can reach.

    Args:
        settings: of the search.
        spec: the dense model.
        precision: that it is worked with in.

    Raises:
        AutoPruneError: for a budget that cannot be read, is not below the dense size, or is
            below what can be reached; for a smallest size that is not below the budget.
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
    if settings.objective == "bytes":
        return _in_bytes(settings, spec, limits, floor, precision)
    tightest = min(limits, key=lambda limit: limit.params)
    return _in_params(settings, spec, tightest, floor, precision)


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
                f"--min-size {floor.text!r} is not below the budget {tightest.text!r}: "
                "ask for less, or leave it out"
            )
    fraction = tightest.params / spec.total_params
    return Sizes(smallest, Budget(text=tightest.text, params=tightest.params, fraction=fraction))


def _in_bytes(
    settings: SearchSettings,
    spec: BackboneSpec,
    limits: list[Limit],
    floor: Limit | None,
    dense: str,
) -> Sizes:
    """Return a span of bytes for each precision: budgets in parameters hold beside those."""
    by_params = [limit for limit in limits if limit.bytes is None]
    by_bytes = [limit for limit in limits if limit.bytes is not None]
    binding = [min(by_params, key=lambda limit: limit.params)] if by_params else []
    binding += [min(by_bytes, key=lambda limit: limit.bytes or 0)] if by_bytes else []
    params = binding[0].params if by_params else spec.total_params
    text = " and ".join(limit.text for limit in binding)
    stock = settings.deployable == "stock"
    spans: dict[str, tuple[int, int]] = {}
    lowest: list[tuple[int, int]] = []
    for option in settings.quantize:
        precision = precision_beside(QUANTIZE[option], dense)
        multiple = multiple_of(precision, channel_multiple(settings, spec))

        def reached(most: int, precision: str = precision, multiple: int = multiple) -> int:
            return stored_bytes(spec, even_plan(spec, most, multiple, stock), precision)

        least, fewest = reached(0), reachable(spec, Allocation(stock=stock), multiple)[0]
        most = min([reached(params), *(limit.bytes or 0 for limit in by_bytes)])
        if most < least or params < fewest:
            raise AutoPruneError(
                f"budget {text!r} allows {format_bytes(most)} at --quantize {option}, and pruning "
                f"the backbone reaches {format_bytes(least)} ({fewest:,} parameters) at the least: "
                f"ask for that or more{_leave_out(settings.quantize, option)}"
            )
        if floor is not None:
            low = reached(floor.params) if floor.bytes is None else floor.bytes
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
    return Sizes(
        smallest=min(low for low, _ in spans.values()),
        budget=Budget(text=text, params=params, fraction=params / spec.total_params, bytes=largest),
        spans=spans,
    )


def _check_floor(floor: Limit, text: str, least: tuple[int, int], most: tuple[int, int]) -> None:
    """Check the smallest size, in its own unit; both ends are bytes and parameters."""
    in_bytes = floor.bytes is not None
    size = floor.bytes if floor.bytes is not None else floor.params
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
