"""Importance of every unit, from one calibration pass: a forward and a backward a batch.

The backward pass goes through one layer at a time (see ``blocks``), so that beside the model
there are the activations of one layer only. Weights are frozen during the pass, so no weight
gradient is ever stored: each layer's probe (see ``probe``) reads activations and their gradients
by hooks and adds up what it needs, in float64.

Absolute values of gradients are taken before they are averaged: a sample at a time for weights,
a token at a time for gates. Summed over a batch first (as LLM-Pruner does over its ten samples),
gradients of samples that pull a unit in opposite directions cancel, and importance depends on the
batch size; Michel et al. (2019, "Are Sixteen Heads Really Better than One?", section 2.3) take the
absolute value a sample for this reason. Tokens cancel in the same way: experiments/importance_check
has what either costs.

The loss of a sample is the mean cross entropy of its answer tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from autoprune.data.encoding import Batch, EncodedSet, batches
from autoprune.errors import AutoPruneError
from autoprune.models.arrays import Arrays
from autoprune.models.backbone import backbone_of
from autoprune.models.memory import peak_memory
from autoprune.models.reading import answer_states, batch_features
from autoprune.models.vision import head
from autoprune.pruning.blocks import Blocks, blockwise, brought
from autoprune.pruning.probe import LayerProbe, Seen
from autoprune.pruning.scores import Importance


def measure(
    model: nn.Module,
    encoded: EncodedSet,
    indices: Sequence[int] | np.ndarray,
    *,
    batch_size: int = 8,
    features: torch.Tensor | np.ndarray | None = None,
    weights: Arrays | None = None,
) -> Importance:
    """Measure everything that importance criteria need, in one pass over calibration rows.

    Rows that the model has not memorised say more: at convergence gradients on training samples
    are near zero. Packed rows are read as they are; padding never counts.

    Args:
        model: the dense model; in evaluation mode, left as it was found.
        encoded: the calibration set.
        indices: rows of it.
        batch_size: rows at a time. The result does not depend on it, but memory does.
        features: ``[images, tokens, dim]`` from ``vision_features`` for the whole set, if they
            are at hand; otherwise computed from the set's pixels.
        weights: where the decoder layers' values are read from, one layer at a time and twice a
            batch, if they lie on the meta device (``from_arrays(..., layers=False)``). So a model
            can be measured on a device that does not hold it.

    Raises:
        AutoPruneError: without rows, or if anything measured is not finite.
    """
    if len(indices) == 0:
        raise AutoPruneError("importance needs calibration samples: give at least one")
    backbone = backbone_of(model)
    blocks = Blocks()
    device = cast(Any, model).get_input_embeddings().weight.device
    seen = Seen(blocks, device)
    probes = [LayerProbe(backbone, index, seen) for index in range(len(backbone.shapes))]
    streamed = None if weights is None else brought(backbone, weights)
    loss, answers = 0.0, 0
    with (
        peak_memory(device) as peak,
        _frozen(model),
        torch.enable_grad(),
        _hooked(probes),
        blockwise(backbone.layers, blocks, streamed),
    ):
        for batch in batches(encoded, indices, batch_size, device, pixels=features is None):
            seen.read(batch)
            losses = _answer_losses(model, batch, batch_features(model, batch, features))
            rows = batch.answer_index.rows
            counts = torch.bincount(rows, minlength=len(batch.rows)).clamp(min=1)
            (losses / counts[rows]).sum().backward()  # type: ignore[no-untyped-call]
            loss += float(losses.detach().double().sum())
            answers += len(losses)
    return _finish(probes, seen, len(indices), answers, loss / max(answers, 1), peak.bytes)


def _answer_losses(model: nn.Module, batch: Batch, features: torch.Tensor | None) -> torch.Tensor:
    """Return the cross entropy of each answer token, ``float32 [answers]``."""
    logits = head(model)(answer_states(model, batch, features)).float()
    targets = batch.answer_index.targets
    return nn.functional.cross_entropy(logits, targets, reduction="none")


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Freeze all weights and leave training mode; put both back as they were."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = [module for module in model.modules() if module.training]
    model.requires_grad_(False).eval()
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


@contextmanager
def _hooked(probes: list[LayerProbe]) -> Iterator[None]:
    handles: list[Any] = []
    try:
        for probe in probes:
            handles.extend(probe.hook())
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finish(
    probes: list[LayerProbe],
    seen: Seen,
    samples: int,
    answers: int,
    loss: float,
    peak: int,
) -> Importance:
    for index, probe in enumerate(probes):
        if not probe.is_finite():
            raise AutoPruneError(
                f"importance of layer {index} is not finite: measure in float32 or bfloat16"
            )
    tokens = np.array([n or np.nan for n in seen.tokens], dtype=np.float64)
    present = np.where(np.isnan(tokens), np.nan, 1.0)

    def total(what: str, kind: str) -> np.ndarray:
        return _stack([getattr(probe, what)[kind].cpu().numpy() for probe in probes])

    def influence(kind: str, sublayer: str | None = None) -> np.ndarray:
        sums = [
            probe.influence[kind] if sublayer is None or probe.slices[sublayer] else [np.nan] * 2
            for probe in probes
        ]
        mean: np.ndarray = np.array(sums) / tokens
        return mean

    by_kind: dict[str, np.ndarray] = {}
    for kind in probes[0].units:
        by_kind[f"weight_taylor_{kind}"] = total("weight_taylor", kind) / samples
        by_kind[f"gate_taylor_{kind}"] = total("gate_taylor", kind) / samples * present
        by_kind[f"activation_{kind}"] = total("energy", kind) / tokens
        by_kind[f"magnitude_{kind}"] = _stack([probe.magnitude[kind] for probe in probes])
    return Importance(
        **by_kind,
        block_influence=influence("block"),
        attention_influence=influence("attention", "groups"),
        mlp_influence=influence("mlp", "channels"),
        group_params=np.array([probe.unit_params("groups") for probe in probes]),
        channel_params=np.array([probe.unit_params("channels") for probe in probes]),
        head_params=np.array([probe.unit_params("heads") for probe in probes]),
        samples=samples,
        answer_tokens=answers,
        loss=loss,
        peak_bytes=peak,
    )


def _stack(rows: list[np.ndarray]) -> np.ndarray:
    """Stack rows of unequal length, filled up with NaN."""
    widest = max(len(row) for row in rows)
    stacked = np.full((len(rows), widest, *rows[0].shape[1:]), np.nan)
    for place, row in enumerate(rows):
        stacked[place, : len(row)] = row
    return stacked
