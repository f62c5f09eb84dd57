"""From a knob vector to a candidate: deterministic, and exact in size.

Importance decides *which* units go, the knobs decide *how many* where, and the size is met by
construction, so that no trial is spent on a candidate outside the budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from autoprune.cost.parameters import size_of
from autoprune.errors import AutoPruneError
from autoprune.models.precision import precision_beside
from autoprune.models.shape import BackboneSpec
from autoprune.pipeline.candidate import Candidate
from autoprune.pruning.knobs import BASELINES, Allocation
from autoprune.pruning.plan import PruningPlan
from autoprune.pruning.rescore import gone_last
from autoprune.pruning.scores import Importance, UnitScores, scores
from autoprune.recovery.guidance import default_learning_rate
from autoprune.recovery.recipe import LOSS_FIELDS, RecoveryRecipe
from autoprune.search.candidates.bounds import Bounds
from autoprune.search.candidates.sizing import (
    BoundedSizing,
    ByteSizing,
    ParamSizing,
    Sizing,
    multiple_of,
)
from autoprune.search.knobs.table import PROJECTOR_SFT, RATIOS, Value

_ALL = (0.0, 1.0)
_LEAST_SHARE = 0.02  # of a width cut, for attention or MLPs that the knobs would leave alone


@dataclass(frozen=True)
class DecodeContext:
    """All that decoding depends on beside the knobs.

    Attributes:
        spec: the dense model's shape.
        importance: measured once a search.
        min_params: smallest size of the search, whole model, where sizes are in parameters.
        max_params: the budget in parameters, whole model.
        train_samples: unique samples that recovery has in all.
        max_recovery_samples: cap on the sample passes of one recovery.
        batch_size: samples of one update.
        multiple: MLP channels are kept in multiples of this.
        stock: whether every candidate must load with plain transformers.
        seed: of the recovery's data subset and order.
        data_fraction: fixes the data fraction of every candidate, or leaves it to the knobs.
        precision: that the dense model is worked with in; that of a candidate which is not
            quantised, and of what is not quantised in others.
        spans: precision -> smallest and largest bytes of stored weights, where sizes are in
            bytes; empty where they are in parameters.
        bounds: what candidates may take while they answer; None: that is not counted.
        in_memory: whether ``spans`` are bytes of memory while answering.
        rescored: whether ``importance`` was measured on a model that is partly cut (see
            ``rescoring``): what it does not know is gone.
    """

    spec: BackboneSpec
    importance: Importance
    min_params: int
    max_params: int
    train_samples: int
    max_recovery_samples: int
    batch_size: int = 16
    multiple: int = 1
    stock: bool = False
    seed: int = 0
    data_fraction: float | None = None
    precision: str = "float32"
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    bounds: Bounds | None = None
    in_memory: bool = False
    rescored: bool = False


def decode(knobs: Mapping[str, Value], context: DecodeContext) -> Candidate:
    """Return the candidate that ``knobs`` (complete, see ``Space.complete``) stand for.

    Raises:
        AutoPruneError: if no protection can be lifted that would bring the size in reach.
    """
    plan = _plan(knobs, context, sizing_of(knobs, context))
    removed = size_of(context.spec, plan).backbone_removed
    return Candidate(plan, _recipe(knobs, context, removed), _precision(knobs, context))


def asked_removed(
    knobs: Mapping[str, Value], context: DecodeContext, plan: PruningPlan
) -> float | None:
    """Return the share of the backbone that knobs ask to remove, where bounds had more removed.

    Args:
        knobs: complete.
        context: of the search.
        plan: that they were decoded to.

    Returns:
        None where the knobs say no such share, or the plan has the size that they say.
    """
    if "backbone_removed" not in knobs or context.bounds is None or not context.bounds.limits:
        return None
    free = _plan(knobs, context, _target(knobs, context, _precision(knobs, context)))
    held = context.spec.params_of(free.shapes) > context.spec.params_of(plan.shapes)
    return float(knobs["backbone_removed"]) if held else None


def unit_scores(knobs: Mapping[str, Value], context: DecodeContext) -> UnitScores:
    """Return the scores that choose a candidate's units within a layer."""
    found = scores(context.importance, str(knobs["criterion"]), float(knobs["text_weight"]))
    return gone_last(found) if context.rescored else found


def _precision(knobs: Mapping[str, Value], context: DecodeContext) -> str:
    return precision_beside(str(knobs["precision"]), context.precision)


def sizing_of(knobs: Mapping[str, Value], context: DecodeContext) -> Sizing:
    """Return the target size: the knob ``size`` spans the sizes that the precision allows."""
    precision = _precision(knobs, context)
    sizing = _target(knobs, context, precision)
    if context.bounds is None or not context.bounds.limits:
        return sizing
    return BoundedSizing(sizing, context.bounds, precision)


def _target(
    knobs: Mapping[str, Value], context: DecodeContext, precision: str
) -> ParamSizing | ByteSizing:
    multiple = multiple_of(precision, context.multiple)
    if "backbone_removed" in knobs:
        spec, high = context.spec, context.max_params
        target = spec.total_params - round(float(knobs["backbone_removed"]) * spec.backbone_params)
        if target > high:
            raise AutoPruneError(
                f"{knobs['backbone_removed']:g} of the backbone removed leaves {target:,} "
                f"parameters, above the budget of {high:,}; remove more, or ask for a larger budget"
            )
        return ParamSizing(spec, target, high, multiple)
    if not context.spans:
        low, high = context.min_params, context.max_params
        target = round(low + float(knobs["size"]) * (high - low))
        return ParamSizing(context.spec, target, high, multiple)
    low, high = context.spans[precision]
    target = round(low + float(knobs["size"]) * (high - low))
    prompt = context.bounds.prompt if context.bounds and context.in_memory else None
    return ByteSizing(context.spec, target, high, precision, context.max_params, multiple, prompt)


def _plan(knobs: Mapping[str, Value], context: DecodeContext, sizing: Sizing) -> PruningPlan:
    windows = BASELINES["width_window"] if knobs["window"] else Allocation()
    allocation = Allocation(
        axis=str(knobs["axis"]),
        depth_share=float(knobs["depth_share"]),
        depth_unit="layer" if context.stock else str(knobs["depth_unit"]),
        contiguous=bool(knobs["contiguous"]),
        head_unit=str(knobs["head_unit"]),
        temperature=float(knobs["temperature"]),
        attention_share=float(knobs["attention_share"]),
        profile_slope=float(knobs["profile_slope"]),
        profile_curve=float(knobs["profile_curve"]),
        attention_window=windows.attention_window,
        mlp_window=windows.mlp_window,
        protect_first=int(knobs["protect_first"]),
        protect_last=int(knobs["protect_last"]),
        layer_ratios=_ratios(knobs),
        stock=context.stock,
    )
    importance = unit_scores(knobs, context)
    target = sizing.target
    best: PruningPlan | None = None
    for relaxed in _relaxed(allocation):
        low = sizing.least(importance, relaxed)
        if low > (sizing.most if best is None else target):
            continue
        plan = sizing.plan(importance, relaxed, max(target, low))
        gap = abs(target - sizing.of(plan))
        if best is None or gap < abs(target - sizing.of(best)):
            best = plan
        gap = abs(target - sizing.of(best))
        # Of what could be cut at all: knobs that leave no unit to the widths would else pass.
        unit = sizing.unit(Allocation(head_unit=relaxed.head_unit, stock=relaxed.stock))
        if low <= target and (relaxed.axis == "depth" or gap < unit or sizing.held(best)):
            return best
    if best is None:
        mend = "use another space or a larger budget"
        unmet = sizing.unmet(importance, relaxed) if isinstance(sizing, BoundedSizing) else ""
        if unmet:
            raise AutoPruneError(f"axis {allocation.axis} cannot keep to {unmet}; {mend}")
        raise AutoPruneError(
            f"axis {allocation.axis} reaches {low:,} {sizing.name} at the least, above the "
            f"budget of {sizing.most:,}; {mend}"
        )
    return best


def _ratios(knobs: Mapping[str, Value]) -> tuple[float, ...] | None:
    # A ratio of 1 would leave its layers whole, and with all at 1 no size could be met.
    return tuple(min(float(knobs[name]), 0.99) for name in RATIOS if name in knobs) or None


def _relaxed(allocation: Allocation) -> Iterator[Allocation]:
    """Yield the allocation, then lift what may keep it from a size, mildest first.

    Protections of layers go one by one, the last layers first; then the window; then heads go
    with their keys; then a sublayer that was to be left alone gives a little; then, where stock
    classes hold widths, layers give. So a size that some knobs cannot meet exactly is met by
    their nearest neighbours that can.
    """
    yield allocation
    for place in ("protect_last", "protect_first"):
        while getattr(allocation, place):
            allocation = replace(allocation, **{place: getattr(allocation, place) - 1})
            yield allocation
    if (allocation.attention_window, allocation.mlp_window) != (_ALL, _ALL):
        allocation = replace(allocation, attention_window=_ALL, mlp_window=_ALL)
        yield allocation
    if allocation.head_unit == "query":
        allocation = replace(allocation, head_unit="group")
        yield allocation
    share = min(max(allocation.attention_share, _LEAST_SHARE), 1 - _LEAST_SHARE)
    if share != allocation.attention_share:
        allocation = replace(allocation, attention_share=share)
        yield allocation
    if allocation.stock and allocation.axis == "width":
        yield replace(allocation, axis="hybrid", depth_share=0.0)


def _recipe(knobs: Mapping[str, Value], context: DecodeContext, removed: float) -> RecoveryRecipe:
    projector = knobs["recovery"] == PROJECTOR_SFT
    losses = ["sft"] if projector else str(knobs["recovery"]).split("+")
    passes = max(1, round(float(knobs["passes"]) * context.max_recovery_samples))
    wanted = context.data_fraction or float(knobs["data_fraction"])
    scope = "none" if losses == ["none"] else "projector" if projector else str(knobs["scope"])
    weights = _weights(losses, float(knobs["distill_weight"]))
    return RecoveryRecipe(
        sft=weights["sft"],
        kl=weights["kl"],
        reverse_kl=weights["reverse_kl"],
        hidden=weights["hidden"],
        others=tuple((name, w) for name, w in weights.items() if name not in LOSS_FIELDS),
        scope=scope,
        lora_rank=int(knobs["lora_rank"]),
        learning_rate=default_learning_rate(removed, scope, context.spec.hidden_size)
        * float(knobs["learning_rate_scale"]),
        decay=str(knobs["decay"]),
        # A fraction that the passes cannot cover would claim samples that were never seen.
        data_fraction=min(wanted, passes / context.train_samples),
        sample_passes=passes,
        batch_size=context.batch_size,
        seed=context.seed,
    )


def _weights(losses: list[str], distill_weight: float) -> dict[str, float]:
    """Share the weight: SFT gets what the distillation losses, equal among them, leave."""
    weights = dict.fromkeys(LOSS_FIELDS, 0.0)
    distilled = [name for name in losses if name not in ("sft", "none")]
    share = 1.0 if "sft" not in losses else distill_weight if distilled else 0.0
    for name in distilled:
        weights[name] = share / len(distilled)
    if "sft" in losses:
        weights["sft"] = 1.0 - share
    return weights
