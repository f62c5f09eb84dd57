"""Recipes to start from: the published rules of thumb, and learning rates that were measured."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from autoprune.errors import AutoPruneError
from autoprune.recovery.recipe import RecoveryRecipe


@dataclass(frozen=True)
class Guidance:
    """One row of the paper's guidance: what to do up to a share of the backbone removed."""

    up_to: float
    scope: str
    sft: float
    hidden: float
    data_fraction: float


# arXiv 2604.24380: up to 15 % removed the projector alone is enough; beyond it SFT + hidden
# distillation (0.5 each, in its code) on LoRA and projector; 5 % of the data below 50 %, all
# of it above.
RECIPES: tuple[Guidance, ...] = (
    Guidance(up_to=0.15, scope="projector", sft=1.0, hidden=0.0, data_fraction=0.05),
    Guidance(up_to=0.50, scope="lora", sft=0.5, hidden=0.5, data_fraction=0.05),
    Guidance(up_to=1.00, scope="lora", sft=0.5, hidden=0.5, data_fraction=1.0),
)

# Peak learning rates for AdamW on the full backbone at hidden size 128, by share of the
# backbone removed; between the rows the logarithm is interpolated. They are for cuts that follow
# importance, as those of a search do, see experiments/recovery_rates; uniform cuts of the same size
# hurt more and bear two to three times as much.
REFERENCE_HIDDEN = 128
REFERENCE_RATES: tuple[tuple[float, float], ...] = (
    (0.2, 2e-4),
    (0.3, 2.5e-4),
    (0.5, 5e-4),
    (0.7, 1e-3),
)

# What a scope multiplies the full scope's rate by: accuracy against rate was the same curve for
# LoRA (alpha = 2 · rank, rank 16), moved by this factor.
SCOPE_RATE: dict[str, float] = {"none": 1.0, "projector": 4.0, "lora": 4.0, "full": 1.0}


def default_learning_rate(
    backbone_removed: float, scope: str = "full", hidden_size: int = REFERENCE_HIDDEN
) -> float:
    """Return the learning rate that a search is centred on.

    The rate rises with the share removed, as was measured on small models (light prunes are
    damaged by what heavy ones need), and falls as 1/hidden_size, as Adam's does under the
    maximal-update parametrisation (Yang et al. 2022). At hidden size 4096 this gives 6e-6 to
    3e-5 for the full scope and four times that for LoRA; the paper uses 2e-5 for its 7B model.

    Raises:
        AutoPruneError: for a share outside [0, 1) or an unknown scope.
    """
    _check_share(backbone_removed)
    if scope not in SCOPE_RATE:
        raise AutoPruneError(f"recovery scope {scope!r} is unknown: use {', '.join(SCOPE_RATE)}")
    rate = _interpolate(backbone_removed)
    return rate * SCOPE_RATE[scope] * REFERENCE_HIDDEN / hidden_size


def recommended(
    backbone_removed: float,
    train_samples: int,
    *,
    hidden_size: int = REFERENCE_HIDDEN,
    max_recovery_samples: int | None = None,
    scope: str | None = None,
    batch_size: int = 16,
    seed: int = 0,
) -> RecoveryRecipe:
    """Return the paper's recommended recipe for a share of the backbone removed.

    Args:
        backbone_removed: in [0, 1).
        train_samples: samples that recovery has in all; one pass over the recommended
            fraction is planned, as in the paper.
        hidden_size: of the model, which the learning rate depends on.
        max_recovery_samples: cap on sample passes.
        scope: replaces ``lora`` (the paper also trains the full backbone); light prunes
            keep the projector.
        batch_size: samples of one update.
        seed: of the data and the order.

    Raises:
        AutoPruneError: for a share outside [0, 1).
    """
    _check_share(backbone_removed)
    row = next(row for row in RECIPES if backbone_removed <= row.up_to)
    chosen = scope if scope is not None and row.scope == "lora" else row.scope
    return RecoveryRecipe(
        sft=row.sft,
        hidden=row.hidden,
        scope=chosen,
        learning_rate=default_learning_rate(backbone_removed, chosen, hidden_size),
        data_fraction=row.data_fraction,
        sample_passes=math.ceil(train_samples * row.data_fraction),
        batch_size=batch_size,
        seed=seed,
    ).capped(max_recovery_samples)


def _interpolate(share: float) -> float:
    if share >= REFERENCE_RATES[-1][0]:
        return REFERENCE_RATES[-1][1]
    if share <= REFERENCE_RATES[0][0]:
        return REFERENCE_RATES[0][1]
    for (low, low_rate), (high, high_rate) in itertools.pairwise(REFERENCE_RATES):
        if share <= high:
            part = (share - low) / (high - low)
            return math.exp((1 - part) * math.log(low_rate) + part * math.log(high_rate))
    return REFERENCE_RATES[-1][1]


def _check_share(backbone_removed: float) -> None:
    if not 0 <= backbone_removed < 1:
        raise AutoPruneError(f"backbone removed {backbone_removed} is outside [0, 1)")
