"""Pruned tiny models of every family, saved as checkpoints without the proof of their reload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoprune.models import checkpoint
from autoprune.models.arrays import state_arrays
from autoprune.models.families import head_rule
from autoprune.models.loading import load_model
from autoprune.models.shape import takes_heads
from autoprune.pruning.surgery import prune
from support.families import CASES, CHANNELS, HEADS, HIDDEN, LAYERS
from support.oracle import Kept, plan_of

ALL_HEADS, ALL_CHANNELS = tuple(range(HEADS)), tuple(range(CHANNELS))
MIXED: Kept = {0: ((), (0, 1, 23)), 1: ((0, 1), ALL_CHANNELS), 3: (ALL_HEADS, (7,))}


def uniform(config: Any) -> Kept:
    """Equal counts, other units in each layer; fewer heads where the stock class takes that."""
    fewer = takes_heads(head_rule(config), HEADS // 2, HEADS, HIDDEN)
    return {
        i: ((i % 2, 2) if fewer else ALL_HEADS, tuple(range(i, i + CHANNELS - LAYERS)))
        for i in range(LAYERS)
        if i != 2
    }


def pruned_model(name: str, kind: str, folder: Path) -> tuple[Any, Any]:
    """Return a pruned model of a family, ``stock`` or ``any``, and its processor."""
    dense = load_model(CASES[name].saved(folder))
    kept = uniform(dense.config) if kind == "stock" else MIXED
    model = prune(dense.config, state_arrays(dense.model), plan_of(dense.model, kept))
    return model, dense.processor


def pruned_checkpoint(name: str, kind: str, folder: Path) -> Path:
    """Return the directory of such a model, saved."""
    model, processor = pruned_model(name, kind, folder / "dense")
    made = folder / "pruned"
    made.mkdir()
    checkpoint._write(model, processor, made, {})
    return made
