"""Everything that the trials of a search share, prepared once and never changed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.data.encoding import EncodedSet
from autoprune.evaluation.scores import TaskScores
from autoprune.evaluation.tasks import TaskSpec
from autoprune.models.shape import BackboneSpec
from autoprune.pruning.scores import Importance
from autoprune.recovery.teacher import TeacherCache


@dataclass(frozen=True, eq=False)
class Exam:
    """One split as a set of tasks, with what the dense model scores on it.

    Attributes:
        split: ``search``, ``confirm`` or ``report``.
        folder: where its tasks lie, as lmms-eval reads them.
        tasks: what is known of them.
        encoded: its questions, tokenised and packed, without pixels.
        features: vision features of its images, ``float16 [images, tokens, dim]``.
        dense: scores of the dense model.
        seconds: that scoring the dense model took.
    """

    split: str
    folder: Path
    tasks: tuple[TaskSpec, ...]
    encoded: EncodedSet
    features: np.ndarray | None
    dense: TaskScores
    seconds: float


@dataclass(frozen=True, eq=False)
class Assets:
    """The dense model's weights, what was measured of it, and the data of all trials.

    Attributes:
        ref: name or path of the dense model.
        identity: content hash of the dense model.
        licence: of the dense model, if it states one.
        config: its transformers configuration.
        processor: its processor.
        generation_config: its generation settings, or None.
        spec: its shape.
        weights: its parameters and buffers by name: arrays, or where they lie on this machine.
        precision: of the weights, and of candidates that ask for no other.
        importance: of its units, from one calibration pass.
        train: recovery samples; pixels are left out where the teacher keeps features.
        teacher: the dense model's states on ``train``.
        probe: calibration samples for the KL proxy.
        probe_teacher: the dense model's states on ``probe``.
        exams: by split.
    """

    ref: str
    identity: str
    licence: str | None
    config: Any
    processor: Any
    generation_config: Any
    spec: BackboneSpec
    weights: Mapping[str, np.ndarray]
    precision: str
    importance: Importance
    train: EncodedSet
    teacher: TeacherCache
    probe: EncodedSet
    probe_teacher: TeacherCache
    exams: Mapping[str, Exam]

    def split(self) -> tuple[bytes, dict[str, np.ndarray]]:
        """Take the assets apart: a small pickle, and the arrays that processes can share."""
        buffers: list[pickle.PickleBuffer] = []
        small = pickle.dumps(self, protocol=5, buffer_callback=buffers.append)
        return small, {
            f"{place:05d}": np.frombuffer(buffer.raw(), dtype=np.uint8)
            for place, buffer in enumerate(buffers)
        }

    @staticmethod
    def join(small: bytes, arrays: Mapping[str, np.ndarray]) -> Assets:
        """Put the assets together again; arrays are not copied and keep being read-only."""
        assets = pickle.loads(small, buffers=[arrays[name] for name in sorted(arrays)])
        if not isinstance(assets, Assets):
            raise TypeError(f"expected assets, not {type(assets).__name__}")
        return assets
