"""What the dense model says on the recovery samples, computed once a search where it fits.

Two things are worth keeping. Vision features are the input of the projector: the tower is
frozen, so they are the same for every student. Teacher states are the dense model's states
after its final norm at the positions that predict answer tokens: 8 KiB a token at 7B, from
which logits are recomputed through the dense head. The dense model makes them with its own
projector, so they do not drift as the student's trains.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.data.encoding import Batch, EncodedSet, batches, collate
from autoprune.errors import AutoPruneError
from autoprune.models.reading import answer_states, batch_features
from autoprune.models.vision import head
from autoprune.resources import autocast_dtype

Model = Any  # a transformers model; its class is chosen by the checkpoint

# Samples a forward pass. On a CPU larger ones leave its caches and were 1.5 times slower.
BATCH_SIZE = {"cpu": 8}
BATCH_SIZE_ELSEWHERE = 32


class Teacher(Protocol):
    """What recovery and the KL proxy ask of a teacher, whether it remembers or computes."""

    @property
    def keeps_features(self) -> bool:
        """Whether features need no pixels in the batch."""
        ...

    def features(self, batch: Batch) -> Tensor | None:
        """Return the batch's vision features, [images, tokens, dim]; None if not at hand."""
        ...

    def hidden(self, batch: Batch, features: Tensor | None = None) -> Tensor:
        """Return the final-norm states that predict the answer tokens, [N, hidden].

        ``features`` are the batch's vision features if they are at hand.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the dense model's logits for such states, [N, vocabulary]."""
        ...


@dataclass(frozen=True)
class Forecast:
    """Bytes that the two caches of a set of samples take."""

    features: int
    hidden: int

    def fitting(self, limit: int | None) -> tuple[bool, bool]:
        """Return whether features and teacher states are kept within ``limit`` bytes.

        The teacher's states come first: they save a forward pass of the dense backbone,
        features only one of the vision tower.
        """
        if limit is None:
            return True, True
        hidden = self.hidden <= limit
        features = self.features <= limit - (self.hidden if hidden else 0)
        return features, hidden


@dataclass(frozen=True, eq=False)
class TeacherCache:
    """Frozen arrays about one encoded set; plain numpy, so that processes share them.

    Args:
        features: vision features, float16 [images, tokens, dim], or None if not kept.
        hidden: final-norm states at answer-predicting positions, float16 [answers, hidden], in
            the order of the encoded set's answer tokens, or None if not kept.
        head_weight: the dense output embedding, [vocabulary, hidden].
        head_bias: its bias, [vocabulary], or None.
        forecast: bytes that keeping all of it takes.
    """

    features: np.ndarray | None
    hidden: np.ndarray | None
    head_weight: np.ndarray
    head_bias: np.ndarray | None
    forecast: Forecast

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        arrays = (self.features, self.hidden, self.head_weight, self.head_bias)
        return sum(array.nbytes for array in arrays if array is not None)


class CachedTeacher:
    """A teacher that remembers: everything is read from a :class:`TeacherCache`."""

    def __init__(self, cache: TeacherCache, device: torch.device | str = "cpu") -> None:
        """Read ``cache``; only the head is copied, and to ``device``."""
        self.cache = cache
        self.device = torch.device(device)
        dtype = torch.float32 if self.device.type == "cpu" else None
        self._weight = _copied(cache.head_weight, self.device, dtype)
        self._bias = None
        if cache.head_bias is not None:
            self._bias = _copied(cache.head_bias, self.device, dtype)

    @property
    def keeps_features(self) -> bool:
        """Whether features need no pixels in the batch."""
        return self.cache.features is not None

    def features(self, batch: Batch) -> Tensor | None:
        """Return the batch's vision features, [images, tokens, dim]; None if not kept."""
        if self.cache.features is None:
            return None
        return _gathered(self.cache.features, batch.images, self.device)

    def hidden(self, batch: Batch, features: Tensor | None = None) -> Tensor:
        """Return the final-norm states that predict the answer tokens, [N, hidden].

        Raises:
            AutoPruneError: where the cache holds none; an :class:`OnlineTeacher` computes them.
        """
        if self.cache.hidden is None:
            raise AutoPruneError(
                "the teacher's states did not fit the cache limit: raise --cache-limit, "
                "or recover with sft alone"
            )
        return _gathered(self.cache.hidden, batch.answers, self.device)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the dense model's logits, [N, vocabulary], through its own frozen head."""
        return F.linear(hidden.to(self._weight.dtype), self._weight, self._bias)


class OnlineTeacher(CachedTeacher):
    """A teacher that computes what its cache lacks; the dense model is loaded when first asked."""

    def __init__(
        self,
        cache: TeacherCache,
        dense: Callable[[], Model],
        device: torch.device | str = "cpu",
    ) -> None:
        """Stand on the model that ``dense`` returns, moved to ``device`` and in eval mode."""
        super().__init__(cache, device)
        self._dense = dense

    @cached_property
    def model(self) -> Model:
        """The dense model."""
        return self._dense().to(self.device).eval()

    def hidden(self, batch: Batch, features: Tensor | None = None) -> Tensor:
        """Return the final-norm states that predict the answer tokens, [N, hidden].

        Without ``features``, kept ones are taken, or the dense model's own tower is run.
        """
        if self.cache.hidden is not None:
            return super().hidden(batch)
        if features is None:
            features = self.features(batch)
        if features is None:
            features = online_features(self.model, batch)
        return frozen_states(self.model, batch, features)


def open_teacher(
    cache: TeacherCache,
    device: torch.device | str = "cpu",
    dense: Callable[[], Model] | None = None,
) -> Teacher:
    """Return the cheapest teacher that has everything.

    Args:
        cache: what was kept.
        device: where its answers are wanted.
        dense: loads the dense model; called when a loss first asks for states that were not
            kept. Without it such a cache serves losses that need no teacher.
    """
    if cache.hidden is not None or dense is None:
        return CachedTeacher(cache, device)
    return OnlineTeacher(cache, dense, device)


@torch.no_grad()
def frozen_states(model: Model, batch: Batch, features: Tensor | None) -> Tensor:
    """Return ``model``'s final-norm states at answer-predicting positions, [N, hidden].

    The model's own projector is used on ``features``; no graph is kept.
    """
    with precision(batch.input_ids.device):
        return answer_states(model, batch, features)


def build_teacher(
    model: Model,
    encoded: EncodedSet,
    cache_limit: int | None = None,
    *,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TeacherCache:
    """Run the dense model over ``encoded`` once and keep what fits ``cache_limit`` bytes.

    Args:
        model: the dense model; moved to ``device``, put in eval mode, otherwise unchanged.
        encoded: the samples.
        cache_limit: bytes that features and states may take together; None keeps all.
        device: to compute on.
        batch_size: samples a forward pass; None takes :data:`BATCH_SIZE`.
        on_progress: told (samples done, samples in all) after every batch.

    Returns:
        The cache; parts beyond the limit are None, and computed online by who opens it. A
        part with values beyond float16 is treated likewise.
    """
    device = torch.device(device)
    model = model.to(device).eval()
    forecast = forecast_bytes(model, encoded, device)
    keep_features, keep_hidden = forecast.fitting(cache_limit)
    keep_features = keep_features and forecast.features > 0
    features: np.ndarray | None = None
    hidden: np.ndarray | None = None
    if keep_hidden:
        hidden = np.empty((encoded.num_answer_tokens, _width(model)), np.float16)
    done = 0
    if batch_size is None:
        batch_size = BATCH_SIZE.get(device.type, BATCH_SIZE_ELSEWHERE)
    wanted = np.arange(len(encoded) if keep_features or keep_hidden else 0)
    for batch in batches(encoded, wanted, batch_size, device):
        seen = online_features(model, batch)
        if keep_features and seen is not None:
            if features is None:
                features = np.empty((_images(encoded), *seen.shape[1:]), np.float16)
            features[batch.images.cpu().numpy()] = _half(seen)
        if hidden is not None:
            hidden[batch.answers.cpu().numpy()] = _half(frozen_states(model, batch, seen))
        done += len(batch.rows)
        if on_progress is not None:
            on_progress(done, len(encoded))
    output: Any = head(model)
    bias = getattr(output, "bias", None)
    return TeacherCache(
        features=_finite(features),
        hidden=_finite(hidden),
        head_weight=_array(output.weight),
        head_bias=None if bias is None else _array(bias),
        forecast=forecast,
    )


def forecast_bytes(
    model: Model, encoded: EncodedSet, device: torch.device | str = "cpu"
) -> Forecast:
    """Say what keeping everything would take, from one image and the counts of ``encoded``."""
    features = 0
    if _images(encoded):
        first = int(np.flatnonzero(np.diff(encoded.image_rows, axis=1))[0])
        one = online_features(model, collate(encoded, [first], device))
        assert one is not None
        features = one[0].numel() * 2 * _images(encoded)
    return Forecast(features=features, hidden=encoded.num_answer_tokens * _width(model) * 2)


def precision(device: torch.device | str) -> AbstractContextManager[Any]:
    """Return the autocast context of ``device``: bfloat16 where it pays, else nothing."""
    device = torch.device(device)
    dtype = autocast_dtype(device)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


@torch.no_grad()
def online_features(model: Model, batch: Batch) -> Tensor | None:
    """Return the batch's vision features by ``model``'s own tower; None where it has none."""
    if batch.pixel_values is None:
        return None
    with precision(batch.input_ids.device):
        return batch_features(model, batch)


def _width(model: Model) -> int:
    output: Any = head(model)
    return int(output.weight.shape[1])


def _images(encoded: EncodedSet) -> int:
    return 0 if encoded.pixel_values is None else len(encoded.pixel_values)


def _gathered(array: np.ndarray, rows: Tensor, device: torch.device) -> Tensor:
    """Copy rows out of a shared array; float32 on the CPU, as they are elsewhere."""
    taken = torch.from_numpy(np.take(array, rows.cpu().numpy(), axis=0))
    return taken.float() if device.type == "cpu" else taken.to(device, non_blocking=True)


def _copied(array: np.ndarray, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    return torch.from_numpy(array.copy()).to(device=device, dtype=dtype)


def _array(tensor: Tensor) -> np.ndarray:
    """Copy out of torch; numpy has no bfloat16, which float32 holds exactly."""
    tensor = tensor.detach().cpu()
    array: np.ndarray = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array.copy()


def _half(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().to(torch.float16).cpu().numpy()
    return array


def _finite(array: np.ndarray | None) -> np.ndarray | None:
    return array if array is None or bool(np.isfinite(array).all()) else None
