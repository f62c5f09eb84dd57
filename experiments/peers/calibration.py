"""The dense model and the calibration images that every method looks at, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from autoprune.cost.flops import ModelFlops
from autoprune.data.encoding import Batch, EncodedSet, batches, encode_for
from autoprune.models.backbone import Backbone, backbone_of
from autoprune.models.reading import answer_states, batch_features
from autoprune.models.shape import BackboneSpec, LayerShape
from autoprune.models.vision import head
from autoprune.pipeline.assets import Assets
from autoprune.pipeline.prepare import dense_model
from autoprune.recovery.teacher import TeacherCache, build_teacher
from autoprune.zoo import load_split

IMAGES = 256
BATCH = 16


@dataclass(frozen=True)
class Observed:
    """What one forward pass over the calibration set shows; all ``float64``, over all tokens.

    Attributes:
        influence: ``[L]`` 1 − mean cosine of a layer's input and output (ShortGPT, equation 1).
        attention_mean: ``[L, heads · head_dim]`` mean input of the attention out-projection.
        attention_variance: its variance.
        mlp_mean: ``[L, channels]`` the same of the MLP's out-projection.
        mlp_variance: its variance.
    """

    influence: np.ndarray
    attention_mean: np.ndarray
    attention_variance: np.ndarray
    mlp_mean: np.ndarray
    mlp_variance: np.ndarray


class Calibration:
    """The dense model over the calibration split.

    Args:
        assets: of the dense model.
        flops: of its parts.
        images: of the calibration split that are looked at.
    """

    def __init__(self, assets: Assets, flops: ModelFlops, images: int = IMAGES) -> None:
        self.assets = assets
        self.flops = flops
        self.spec: BackboneSpec = assets.spec
        self.model: Any = dense_model(assets, torch.device("cpu"))
        self.backbone: Backbone = backbone_of(self.model)
        samples = load_split("calibration", images)
        encoded = encode_for(assets.config, samples, assets.processor)
        self.teacher: TeacherCache = build_teacher(self.model, encoded)
        self.encoded: EncodedSet = encoded.without_pixels()

    def batches(self, rows: np.ndarray | None = None, size: int = BATCH) -> Iterator[Batch]:
        """Yield batches of ``rows`` (all)."""
        wanted = np.arange(len(self.encoded)) if rows is None else rows
        return batches(self.encoded, wanted, size, torch.device("cpu"), pixels=False)

    def losses(self, batch: Batch) -> torch.Tensor:
        """Return the cross entropy of each answer token of a batch, with its graph."""
        features = batch_features(self.model, batch, self.teacher.features)
        logits = head(self.model)(answer_states(self.model, batch, features)).float()
        targets = batch.answer_index.targets
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    def forward_flops(self, rows: int, shapes: tuple[LayerShape, ...] | None = None) -> float:
        """Return the FLOPs of a forward pass over ``rows`` images, vision tower left out."""
        count = len(self.encoded)
        one = self.flops.forward(
            self.spec.layers if shapes is None else shapes,
            tokens=round(len(self.encoded.input_ids) / count),
            predicted=round(self.encoded.num_answer_tokens / count),
            vision=False,
        )
        return rows * one

    @cached_property
    def observed(self) -> Observed:
        """What a forward pass over the whole set shows."""
        layers = len(self.spec.layers)
        inputs = [_Moments() for _ in range(2 * layers)]
        distance, tokens = np.zeros(layers), 0
        valid: torch.Tensor
        handles: list[Any] = []

        def compare(index: int) -> Any:
            def hook(_: Any, args: Any, kwargs: Any, output: Any) -> None:
                before = args[0] if args else kwargs["hidden_states"]
                after = output[0] if isinstance(output, tuple) else output
                cosine = torch.nn.functional.cosine_similarity(before, after, dim=-1)
                distance[index] += float((1 - cosine.double())[valid].sum())

            return hook

        def read(moments: _Moments) -> Any:
            def hook(_: Any, args: Any) -> None:
                moments.add(args[0][valid])

            return hook

        for index, layer in enumerate(self.backbone.layers):
            handles.append(layer.register_forward_hook(compare(index), with_kwargs=True))
            for place, linear in enumerate(self.outputs(index)):
                handles.append(linear.register_forward_pre_hook(read(inputs[2 * index + place])))
        try:
            with torch.no_grad():
                for batch in self.batches():
                    valid = batch.valid
                    tokens += int(valid.sum())
                    self.losses(batch)
        finally:
            for handle in handles:
                handle.remove()
        attention, mlp = inputs[0::2], inputs[1::2]
        return Observed(
            distance / tokens,
            np.stack([m.mean for m in attention]),
            np.stack([m.variance for m in attention]),
            np.stack([m.mean for m in mlp]),
            np.stack([m.variance for m in mlp]),
        )

    def outputs(self, index: int) -> tuple[torch.nn.Linear, torch.nn.Linear]:
        """Return the out-projections of a layer's attention and MLP."""
        attention = self.backbone.attention_output(index)
        mlp = self.backbone.mlp_output(index)
        assert attention is not None  # the model is dense
        assert mlp is not None
        return attention, mlp

    @contextmanager
    def masked(self, heads: np.ndarray, channels: np.ndarray) -> Iterator[Any]:
        """Within, the dense model computes what a model without some units would.

        Args:
            heads: ``bool [L, heads]``: those that stay.
            channels: ``bool [L, channels]``.
        """
        handles = []
        width = self.backbone.head_dim
        for index in range(len(self.spec.layers)):
            rows = (np.repeat(heads[index], width), channels[index])
            for linear, row in zip(self.outputs(index), rows, strict=True):
                if not row.all():
                    keep = torch.from_numpy(row.astype(np.float32))
                    handles.append(linear.register_forward_pre_hook(_times(keep)))
        try:
            yield self.model
        finally:
            for handle in handles:
                handle.remove()


def _times(keep: torch.Tensor) -> Any:
    return lambda _, args: (args[0] * keep, *args[1:])


class _Moments:
    """Mean and variance of vectors that arrive in pieces."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Any = 0.0
        self.squares: Any = 0.0

    def add(self, vectors: torch.Tensor) -> None:
        values = vectors.double()
        self.count += len(values)
        self.total = self.total + values.sum(0).numpy()
        self.squares = self.squares + values.square().sum(0).numpy()

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.total / self.count)

    @property
    def variance(self) -> np.ndarray:
        spread = self.squares / self.count - self.mean**2
        return np.asarray(spread.clip(0) * self.count / (self.count - 1))
