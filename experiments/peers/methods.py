"""What a method answers, and the methods that need a page or less: ShortGPT and LLM-Pruner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from autoprune.pruning.allocation import allocate
from autoprune.pruning.knobs import BASELINES, Allocation
from autoprune.pruning.plan import PruningPlan
from autoprune.pruning.scores import UnitScores, scores
from experiments.peers.calibration import Calibration
from experiments.peers.kept import target_of

TAYLOR_SAMPLES = 10
"""Calibration samples of LLM-Pruner's released script."""

WINDOW = (4 / 32, 30 / 32)
"""Layers that LLM-Pruner's released script prunes, of 32."""


@dataclass(frozen=True)
class Built:
    """A method's answer.

    Attributes:
        plan: what is kept.
        flops: that finding it took, on the dense model or in a search.
        biases: of out-projections, by dense layer and sublayer (``attention``, ``mlp``); they
            count as parameters of their own.
        notes: what else there is to say, as JSON values.
    """

    plan: PruningPlan
    flops: float
    biases: Mapping[tuple[int, str], np.ndarray] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bias_params(self) -> int:
        """Parameters of the biases."""
        return sum(len(bias) for bias in self.biases.values())


def uniform(calibration: Calibration, removed: float, seed: int) -> Built:
    """Equal widths in all layers, units by AutoPrune's own Taylor sums over weights."""
    importance = calibration.assets.importance
    target = target_of(calibration.spec, removed)
    unit_scores = scores(importance, "weight_taylor")
    plan = allocate(calibration.spec, unit_scores, BASELINES["width"], target)
    return Built(plan, _gradients(calibration, importance.samples))


def shortgpt(calibration: Calibration, removed: float, seed: int) -> Built:
    """ShortGPT (Men et al. 2024): the layers of least block influence go, in one shot.

    As many whole layers as fit into the cut; the rest of it is trimmed off the layers that stay,
    equally, by Taylor sums, since the method itself knows whole layers only.
    """
    unit_scores = _with_influence(calibration)
    target = target_of(calibration.spec, removed)
    plan = allocate(calibration.spec, unit_scores, BASELINES["depth_trimmed"], target)
    flops = calibration.forward_flops(len(calibration.encoded))
    return Built(plan, flops, notes={"dropped": list(plan.dropped_layers)})


def shortgpt_whole(calibration: Calibration, removed: float, seed: int) -> Built:
    """ShortGPT as published, in whole layers: the next smaller size."""
    unit_scores = _with_influence(calibration)
    target = target_of(calibration.spec, removed)
    plan = allocate(calibration.spec, unit_scores, BASELINES["depth"], target)
    flops = calibration.forward_flops(len(calibration.encoded))
    return Built(plan, flops, notes={"dropped": list(plan.dropped_layers)})


def llm_pruner(calibration: Calibration, removed: float, seed: int) -> Built:
    """LLM-Pruner (Ma et al. 2023): first-order Taylor, one ratio in a window of layers.

    The importance of a coupled group is Σ |w · g| over its weights, with g the gradient of the
    mean loss of ten samples (equation 5 element by element, its ``param_first``): signs of samples
    cancel within g, which AutoPrune's own criterion avoids. Groups are ranked within each layer;
    all layers of the window lose the same share of heads and of channels.
    """
    spec = calibration.spec
    groups, channels = taylor_sums(calibration, taylor_rows(calibration, seed))
    layers = len(spec.layers)
    window = (round(WINDOW[0] * layers) / layers, round(WINDOW[1] * layers) / layers)
    allocation = Allocation(axis="width", temperature=0, attention_window=window, mlp_window=window)
    unit_scores = replace(
        scores(calibration.assets.importance),
        groups=groups / spec.attention_group_params,
        channels=channels / spec.channel_params,
    )
    plan = allocate(spec, unit_scores, allocation, target_of(spec, removed))
    return Built(plan, _gradients(calibration, TAYLOR_SAMPLES), notes={"window": list(window)})


def taylor_rows(calibration: Calibration, seed: int) -> np.ndarray:
    """Return the samples that LLM-Pruner's gradient is summed over."""
    dice = np.random.default_rng([seed, 11])
    count = min(TAYLOR_SAMPLES, len(calibration.encoded))
    return np.sort(dice.choice(len(calibration.encoded), count, replace=False))


def taylor_sums(calibration: Calibration, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ |w · g| of each KV group ``[L, G]`` and channel ``[L, C]``, g summed over rows."""
    backbone, model = calibration.backbone, calibration.model
    model.requires_grad_(True)
    try:
        (batch,) = calibration.batches(rows, len(rows))
        calibration.losses(batch).mean().backward()  # type: ignore[no-untyped-call]
        sums: dict[str, list[np.ndarray]] = {"groups": [], "channels": []}
        for index, shape in enumerate(calibration.spec.layers):
            for kind, slices, units in (
                ("groups", backbone.attention_slices(index), shape.kv_heads),
                ("channels", backbone.mlp_slices(index), shape.channels),
            ):
                total = np.zeros(units)
                for part in slices:
                    weight = part.linear.weight
                    assert weight.grad is not None
                    salience = (weight.detach() * weight.grad).abs().double()
                    entries = salience.sum(0 if part.output else 1)[part.start : part.stop]
                    total += entries.reshape(units, -1).sum(1).numpy()
                sums[kind].append(total)
    finally:
        model.zero_grad(set_to_none=True)
        model.requires_grad_(False)
    return np.stack(sums["groups"]), np.stack(sums["channels"])


def _with_influence(calibration: Calibration) -> UnitScores:
    unit_scores = scores(calibration.assets.importance, "weight_taylor")
    return replace(unit_scores, layers=calibration.observed.influence)


def _gradients(calibration: Calibration, samples: int) -> float:
    """Return the FLOPs of forward and backward passes over samples, gradients of weights too."""
    return 3 * calibration.forward_flops(samples)
