"""How a pruned model is recovered, as pure data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.errors import AutoPruneError, did_you_mean

LOSS_FIELDS = ("sft", "kl", "reverse_kl", "hidden")
SCOPE_NAMES = ("none", "projector", "lora", "full")
DECAY_NAMES = ("cosine", "linear")


@dataclass(frozen=True, kw_only=True)
class RecoveryRecipe:
    """Losses, what is trained, on how much data and how: everything a recovery depends on.

    The loss is Σ weight · loss over answer tokens, averaged per token (paper, section on
    recovery: αCE + βKD + γ‖H_S − H_T‖²).

    Args:
        sft: weight of the cross entropy on the answer.
        kl: weight of the forward KL divergence from the dense model's logits.
        reverse_kl: weight of the reverse KL divergence.
        hidden: weight of the distance to the dense model's final-norm states, relative to
            the mean square of those states.
        others: names and weights of losses that other packages add.
        temperature: of both KL losses, which are multiplied by its square.
        scope: ``none``, ``projector``, ``lora`` (LoRA and projector) or ``full`` (backbone
            and projector). The vision tower is always frozen.
        lora_rank: rank of each LoRA; its alpha is twice the rank.
        learning_rate: peak learning rate.
        data_fraction: share of the *unique* recovery samples that may be seen, in (0, 1].
        sample_passes: samples seen in all, repetitions counted.
        batch_size: samples of one update, however it is split.
        accumulate: forward passes an update is split into. It trades memory for time and
            changes no number but by rounding.
        warmup: share of the updates in which the learning rate rises.
        decay: how it falls to 0 from there: ``cosine`` or ``linear``.
        weight_decay: of AdamW, on matrices only.
        clip: largest norm of the gradient.
        seed: of the data subset, the order of samples and the LoRA's start.
        checkpointing: recompute activations in the backward pass, to save memory.

    Raises:
        AutoPruneError: for a value outside its range.
    """

    sft: float = 1.0
    kl: float = 0.0
    reverse_kl: float = 0.0
    hidden: float = 0.0
    others: tuple[tuple[str, float], ...] = ()
    temperature: float = 2.0
    scope: str = "full"
    lora_rank: int = 16
    learning_rate: float = 5e-4
    data_fraction: float = 1.0
    sample_passes: int = 1024
    batch_size: int = 16
    accumulate: int = 1
    warmup: float = 0.03
    decay: str = "cosine"
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in (*LOSS_FIELDS, "weight_decay"):
            _require(self, name, getattr(self, name) >= 0, "at least 0")
        for name, weight in self.others:
            if name in LOSS_FIELDS or not (math.isfinite(weight) and weight >= 0):
                raise AutoPruneError(
                    f"recovery recipe: loss {name!r} has weight {weight} among the others: it must "
                    "be at least 0, and no loss that has a field of its own"
                )
        for name in ("temperature", "learning_rate", "clip"):
            _require(self, name, getattr(self, name) > 0, "above 0")
        _require(self, "data_fraction", 0 < self.data_fraction <= 1, "in (0, 1]")
        _require(self, "warmup", 0 <= self.warmup < 1, "in [0, 1)")
        for name in ("lora_rank", "batch_size", "accumulate"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        _require(self, "sample_passes", self.sample_passes >= 0, "at least 0")
        _require(self, "accumulate", self.accumulate <= self.batch_size, "at most batch_size")
        if self.decay not in DECAY_NAMES:
            raise AutoPruneError(
                f"recovery decay {self.decay!r} is unknown{did_you_mean(self.decay, DECAY_NAMES)}"
            )
        if self.scope not in SCOPE_NAMES:
            raise AutoPruneError(
                f"recovery scope {self.scope!r} is unknown{did_you_mean(self.scope, SCOPE_NAMES)}"
            )
        if self.scope != "none" and not self.weights:
            raise AutoPruneError(
                f"recovery scope {self.scope!r} has no loss: give one of "
                f"{', '.join(LOSS_FIELDS)} a weight, or use scope 'none'"
            )

    @property
    def weights(self) -> dict[str, float]:
        """The losses that count, by name."""
        known = ((name, getattr(self, name)) for name in LOSS_FIELDS)
        return {name: weight for name, weight in (*known, *self.others) if weight > 0}

    @property
    def steps(self) -> int:
        """Planned updates; 0 where nothing is trained."""
        return 0 if self.scope == "none" else math.ceil(self.sample_passes / self.batch_size)

    @property
    def name(self) -> str:
        """A short name for tables, such as ``full sft+hidden``."""
        return "none" if self.scope == "none" else f"{self.scope} {'+'.join(self.weights)}"

    def capped(self, max_recovery_samples: int | None) -> RecoveryRecipe:
        """Return this recipe with at most ``max_recovery_samples`` sample passes."""
        if max_recovery_samples is None or self.sample_passes <= max_recovery_samples:
            return self
        return dataclasses.replace(self, sample_passes=max_recovery_samples)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values that :meth:`from_dict` reads.

        A cosine and losses of other packages that are not there are not named, so that recipes
        from before there were any are the same.
        """
        values = dataclasses.asdict(self)
        if self.decay == "cosine":
            del values["decay"]
        if not self.others:
            del values["others"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RecoveryRecipe:
        """Read a recipe back.

        Raises:
            AutoPruneError: for an unknown key, a wrong type or a value outside its range.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key, value in values.items():
            if key not in fields:
                raise AutoPruneError(
                    f"recovery recipe key {key!r} is unknown{did_you_mean(key, fields)}"
                )
            if key == "others":
                continue
            kind = type(fields[key].default)
            fits = isinstance(value, (int, float) if kind is float else kind)
            if not fits or (isinstance(value, bool) and kind is not bool):
                raise AutoPruneError(
                    f"recovery recipe key {key!r} is {value!r}: it must be a {kind.__name__}"
                )
        try:
            others = tuple((str(name), float(weight)) for name, weight in values.get("others", ()))
        except (TypeError, ValueError):
            raise AutoPruneError(
                f"recovery recipe key 'others' is {values['others']!r}: it must be pairs of a "
                "loss and its weight"
            ) from None
        return cls(**{**values, "others": others})


def _require(recipe: RecoveryRecipe, name: str, holds: bool, wanted: str) -> None:
    value = getattr(recipe, name)
    if not (math.isfinite(value) and holds):
        raise AutoPruneError(f"recovery recipe: {name} is {value}, it must be {wanted}")
