"""All plans that are compared, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autoprune.search.candidates.decode import DecodeContext, decode
from autoprune.search.knobs.space import load_space
from experiments.peers.calibration import Calibration
from experiments.peers.evopress import evopress, evopress_drop
from experiments.peers.flap import flap, flap_plan
from experiments.peers.kept import target_of
from experiments.peers.methods import Built, llm_pruner, shortgpt, shortgpt_whole, uniform
from experiments.peers.torchpruning import torch_pruning_global, torch_pruning_uniform

SPACE = "hybrid"

REMOVED = (0.30, 0.45, 0.60)
"""Shares of the backbone removed."""


def context_of(calibration: Calibration, removed: float, seed: int) -> DecodeContext:
    """Return the context in which every knob vector is decoded at one size."""
    target = target_of(calibration.spec, removed)
    return DecodeContext(
        spec=calibration.spec,
        importance=calibration.assets.importance,
        min_params=target,
        max_params=target,
        train_samples=len(calibration.assets.train),
        max_recovery_samples=PASSES,
        seed=seed,
    )


PASSES = 800
"""Sample passes of every recovery."""


def autoprune_default(calibration: Calibration, removed: float, seed: int) -> Built:
    """What AutoPrune decodes from the defaults of its default space, without any search."""
    plan = decode(load_space(SPACE).complete({}), context_of(calibration, removed, seed)).plan
    return Built(plan, 3 * calibration.forward_flops(calibration.assets.importance.samples))


@dataclass(frozen=True)
class Method:
    """A way to a plan.

    Attributes:
        text: what it is, for tables.
        build: makes the plan at a share of the backbone removed, with a seed.
        seeded: whether the plan depends on the seed.
        peer: whether it is in the comparison at equal cost: other methods, and equal widths.
        sizes: shares of the backbone removed at which it says something of its own.
    """

    text: str
    build: Callable[[Calibration, float, int], Built]
    seeded: bool = False
    peer: bool = True
    sizes: tuple[float, ...] = REMOVED


METHODS: dict[str, Method] = {
    "autoprune": Method("AutoPrune, default plan", autoprune_default, peer=False),
    "evopress": Method("EvoPress, widths", evopress, seeded=True),
    "llm-pruner": Method("LLM-Pruner", llm_pruner, seeded=True),
    "flap": Method("FLAP", flap),
    "shortgpt": Method("ShortGPT, trimmed", shortgpt),
    "evopress-drop": Method("EvoPress, sublayers", evopress_drop, seeded=True),
    "tp-uniform": Method("Torch-Pruning, uniform", torch_pruning_uniform),
    "tp-global": Method("Torch-Pruning, global", torch_pruning_global),
    "uniform": Method("uniform widths", uniform),
    "flap-plan": Method("FLAP without biases", flap_plan, peer=False),
    # At 30 and 60 % whole layers meet the size: there is nothing to trim.
    "shortgpt-whole": Method("ShortGPT, whole layers", shortgpt_whole, peer=False, sizes=(0.45,)),
}
"""The most telling first."""
