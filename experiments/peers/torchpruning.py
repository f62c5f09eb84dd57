"""Torch-Pruning (Fang et al. 2023, arXiv 2301.12900) from the package index, by its LLM recipe.

The recipe is that of its ``examples/LLMs``: group magnitudes (L2, mean over the layers of a
group), whole heads, head dimensions left alone, channels in multiples of four, one ratio for
heads and channels; within each layer (``uniform``) or over all layers (``global``).

What differs: the recipe takes the hidden size too. Here it stays, since vision projector,
embeddings and AutoPrune's plans hold on to it: layers that write to the residual stream are
ignored. Its ratio is bisected to the size that is asked for; what rounding leaves below it is
filled with channels, best by its own importance first. The package decides, and nothing is
removed by it: AutoPrune's surgery builds the model.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from autoprune.models.families import text_config
from experiments.peers.calibration import Calibration
from experiments.peers.kept import CHANNEL, Kept, Unit, fill, target_of
from experiments.peers.methods import Built

STEPS = 14
ROUND_TO = 4


def available() -> bool:
    """Whether the package is installed."""
    return find_spec("torch_pruning") is not None


def torch_pruning_uniform(calibration: Calibration, removed: float, seed: int) -> Built:
    """Torch-Pruning's recipe as it stands: every layer loses the same share."""
    return _build(calibration, removed, everywhere=False)


def torch_pruning_global(calibration: Calibration, removed: float, seed: int) -> Built:
    """Torch-Pruning's recipe with ``global_pruning``: one ranking over all layers."""
    return _build(calibration, removed, everywhere=True)


def _build(calibration: Calibration, removed: float, everywhere: bool) -> Built:
    spec, target = calibration.spec, target_of(calibration.spec, removed)
    low, high = 0.0, 1.0
    chosen: tuple[Kept, np.ndarray] | None = None
    for _ in range(STEPS):
        middle = (low + high) / 2
        kept, importance = decide(calibration, middle, everywhere)
        if kept.params(spec) <= target:
            high, chosen = middle, (kept, importance)
        else:
            low = middle
    assert chosen is not None  # a ratio near 1 leaves less than any target here
    kept, importance = chosen
    reached = kept.params(spec)
    kept = fill(spec, kept, _order(kept, importance, everywhere), target)
    return Built(kept.plan(spec), 0.0, notes={"ratio": high, "reached": reached})


def _order(kept: Kept, importance: np.ndarray, everywhere: bool) -> list[Unit]:
    """Return the channels to put back, best first; one a layer in turn where layers are equal."""
    rank = np.empty_like(importance)
    for layer, row in enumerate(importance):
        gone = np.flatnonzero(~kept.channels[layer])
        best = gone[np.argsort(-row[gone], kind="stable")]
        rank[layer] = -1
        rank[layer, best] = np.arange(len(best))
    units = [(CHANNEL, int(a), int(b)) for a, b in zip(*np.nonzero(~kept.channels), strict=True)]

    def key(unit: Unit) -> tuple[float, float]:
        _, layer, place = unit
        turn = 0.0 if everywhere else float(rank[layer, place])
        return turn, -float(importance[layer, place])

    return sorted(units, key=key)


def decide(calibration: Calibration, ratio: float, everywhere: bool) -> tuple[Kept, np.ndarray]:
    """Ask the package what it would remove at a ratio.

    Returns:
        What is kept, and the package's importance of each channel, ``[L, C]``.
    """
    import torch_pruning
    from transformers import AutoModelForCausalLM

    backbone, model = calibration.backbone, calibration.model
    config = text_config(model.config)
    # The language model alone, of the same modules: what the recipe is written for.
    with torch.device("meta"):
        language = AutoModelForCausalLM.from_config(config)
    setattr(language, language.base_model_prefix, backbone.decoder)
    language.set_output_embeddings(backbone.head)
    language.config.use_cache = False
    spec = calibration.spec
    heads: dict[Any, int] = {}
    residual: list[Any] = [language.get_input_embeddings(), backbone.head]
    outputs: dict[Any, tuple[int, str]] = {}
    for index, shape in enumerate(spec.layers):
        for part in backbone.attention_slices(index):
            if not part.output:
                heads[part.linear] = shape.heads if part.part == "q" else shape.kv_heads
        attention, mlp = calibration.outputs(index)
        residual += [attention, mlp]
        outputs |= {attention: (index, "attention"), mlp: (index, "mlp")}
    importance = _Noted(torch_pruning.importance.GroupMagnitudeImportance(p=2), outputs)
    model.requires_grad_(True)  # the package follows the graph of gradients
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it names every norm that it has no rule for
            pruner = torch_pruning.pruner.BasePruner(
                language,
                example_inputs=torch.arange(8)[None],
                output_transform=lambda output: output.logits,
                importance=importance,
                global_pruning=everywhere,
                pruning_ratio=ratio,
                head_pruning_ratio=ratio,
                ignored_layers=residual,
                root_module_types=[torch.nn.Linear],
                in_channel_groups={},
                out_channel_groups={},
                num_heads=heads,
                prune_num_heads=True,
                prune_head_dims=False,
                round_to=ROUND_TO,
            )
            kept = Kept.everything(spec)
            for group in pruner.step(interactive=True):
                _take(kept, group, outputs, backbone.head_dim * spec.q_per_group)
    finally:
        model.requires_grad_(False)
    return kept, np.stack([importance.channels[index] for index in range(len(spec.layers))])


def _take(kept: Kept, group: Any, outputs: dict[Any, tuple[int, str]], width: int) -> None:
    """Remove what a group of the package's names from ``kept``."""
    for dependency, places in group:
        found = outputs.get(dependency.target.module)
        if found is None:
            continue
        layer, kind = found
        if kind == "mlp":
            kept.channels[layer, places] = False
        else:
            kept.groups[layer, sorted({place // width for place in places})] = False


class _Noted:
    """The package's importance, remembered by layer."""

    def __init__(self, importance: Any, outputs: dict[Any, tuple[int, str]]) -> None:
        self.importance = importance
        self.outputs = outputs
        self.channels: dict[int, np.ndarray] = {}

    def __call__(self, group: Any) -> Any:
        scores = self.importance(group)
        for dependency, _ in group:
            layer, kind = self.outputs.get(dependency.target.module, (0, ""))
            if kind == "mlp" and scores is not None:
                self.channels[layer] = scores.detach().double().numpy().copy()
        return scores
