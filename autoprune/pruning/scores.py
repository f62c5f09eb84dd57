"""What a calibration pass measured, and scores of units made from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.identity import content_hash
from autoprune.plugins import CRITERIA as GROUP
from autoprune.plugins import Table

IMAGE, TEXT = 0, 1
"""Places of the two modalities on the last axis of what is measured by token."""

GONE = -1.0
"""Score of a unit that is gone already: below all others, which are sums of absolute values."""


@dataclass(frozen=True)
class Importance:
    """What one calibration pass measured; all ``float64``.

    L layers, G KV groups, C MLP channels, H query heads (0 where every head has keys of its own:
    groups say it all); the last axis of M = 2 is (image tokens, text tokens).
    Layers with fewer units than the widest are filled up with NaN; so is what a dropped sublayer
    or an absent modality would have.

    Attributes:
        weight_taylor_groups: ``[L, G]``: Σ |w·∂ℓ/∂w| over the parameters of a coupled group.
        weight_taylor_channels: ``[L, C]``.
        weight_taylor_heads: ``[L, H]``, of a query head's own rows and columns.
        gate_taylor_groups: ``[L, G, M]``: Σ over tokens of |Σ a·∂ℓ/∂a| at the out-projection's
            input, of a sample.
        gate_taylor_channels: ``[L, C, M]``.
        gate_taylor_heads: ``[L, H, M]``.
        activation_groups: ``[L, G, M]``: mean over tokens of Σ (a·‖W_out column‖)², relative to
            the energy of the residual stream at that token.
        activation_channels: ``[L, C, M]``.
        activation_heads: ``[L, H, M]``.
        magnitude_groups: ``[L, G]``: Σ w² over the parameters of a coupled group.
        magnitude_channels: ``[L, C]``.
        magnitude_heads: ``[L, H]``.
        block_influence: ``[L, M]``: 1 − E cos of the residual stream before and after a layer.
        attention_influence: ``[L, M]``: the same of the attention sublayer.
        mlp_influence: ``[L, M]``: the same of the MLP sublayer.
        group_params: ``[L]``: parameters of one KV group.
        channel_params: ``[L]``: parameters of one MLP channel.
        head_params: ``[L]``: parameters of one query head.
        samples: calibration rows that were read.
        answer_tokens: answer tokens among them.
        loss: mean cross entropy of the answers, in nats a token: near zero means that the model
            has memorised the samples and its gradients say little.
        peak_bytes: most memory that the pass held, see ``models.memory``; differs from run to run
            and is no part of the identity.
    """

    weight_taylor_groups: np.ndarray
    weight_taylor_channels: np.ndarray
    weight_taylor_heads: np.ndarray
    gate_taylor_groups: np.ndarray
    gate_taylor_channels: np.ndarray
    gate_taylor_heads: np.ndarray
    activation_groups: np.ndarray
    activation_channels: np.ndarray
    activation_heads: np.ndarray
    magnitude_groups: np.ndarray
    magnitude_channels: np.ndarray
    magnitude_heads: np.ndarray
    block_influence: np.ndarray
    attention_influence: np.ndarray
    mlp_influence: np.ndarray
    group_params: np.ndarray
    channel_params: np.ndarray
    head_params: np.ndarray
    samples: int
    answer_tokens: int
    loss: float
    peak_bytes: int = field(default=0, compare=False)

    @cached_property
    def identity(self) -> str:
        """Content hash."""
        return content_hash([getattr(self, f.name) for f in fields(self) if f.compare])

    def save(self, path: Path) -> None:
        """Write everything to one ``.npz`` file."""
        with path.open("wb") as stream:
            np.savez(stream, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> Importance:
        """Read what :meth:`save` wrote."""
        with np.load(path) as data:
            arrays = {name: data[name] for name in data.files}
        for name in ("samples", "answer_tokens", "peak_bytes"):
            arrays[name] = int(arrays[name])
        return cls(**{**arrays, "loss": float(arrays["loss"])})


@dataclass(frozen=True)
class UnitScores:
    """How much each unit matters for what it costs; higher is kept longer.

    Attributes:
        groups: ``float64 [L, G]`` a parameter of a KV group.
        channels: ``float64 [L, C]`` a parameter of an MLP channel; on the same scale as groups.
        layers: ``float64 [L]`` block influence.
        attention: ``float64 [L]`` influence of the attention sublayer.
        mlp: ``float64 [L]`` influence of the MLP sublayer.
        heads: ``float64 [L, H]`` a parameter of a query head; to choose within a KV group. None
            where every head has keys of its own.
    """

    groups: np.ndarray
    channels: np.ndarray
    layers: np.ndarray
    attention: np.ndarray
    mlp: np.ndarray
    heads: np.ndarray | None = None


Criterion = Callable[[Importance, str, float], np.ndarray]
"""Returns what units of a kind (``groups``, ``channels``, ``heads``) are worth, as sums.

It is given what was measured, the kind, and the weight of text against image tokens (0 to 1), and
returns ``float64 [L, units]``: at least 0, NaN where a layer has no such unit. A unit's worth is
its sum over parameters: it is divided by their number before units of different kinds compete.
"""


def _weight_taylor(importance: Importance, kind: str, text_weight: float) -> np.ndarray:
    found: np.ndarray = getattr(importance, f"weight_taylor_{kind}")
    return found


def _gate_taylor(importance: Importance, kind: str, text_weight: float) -> np.ndarray:
    return _blend(getattr(importance, f"gate_taylor_{kind}"), text_weight)


def _activation(importance: Importance, kind: str, text_weight: float) -> np.ndarray:
    return _blend(getattr(importance, f"activation_{kind}"), text_weight)


def _magnitude(importance: Importance, kind: str, text_weight: float) -> np.ndarray:
    # Weights of one layer say nothing about those of another: only the rank within counts.
    params = _params(importance, kind)
    share: np.ndarray = getattr(importance, f"magnitude_{kind}") / params
    known = np.maximum(np.isfinite(share).sum(axis=1, keepdims=True), 1)  # a dropped layer has none
    mean = np.nansum(share, axis=1, keepdims=True) / known
    relative: np.ndarray = share / np.where(mean > 0, mean, 1.0) * params
    return relative


def _params(importance: Importance, kind: str) -> np.ndarray:
    """Return the parameters of one unit of a kind, ``[L, 1]``."""
    params: np.ndarray = getattr(importance, f"{kind.removesuffix('s')}_params")
    return params[:, None]


CRITERIA: Table[Criterion] = Table(
    GROUP,
    {
        "taylor": _gate_taylor,
        "weight_taylor": _weight_taylor,
        "activation": _activation,
        "magnitude": _magnitude,
    },
    callable,
    "a function of what was measured, a kind of units and a text weight",
)
"""Importance criteria by name; packages may add their own (see ``plugins``).

- ``taylor``: |∂ℓ/∂gate| of each unit, a token at a time (after Michel et al. 2019, section 2.3,
  and Molchanov et al. 2017); knows image from text tokens.
- ``weight_taylor``: Σ |w·∂ℓ/∂w| over a unit's parameters (LLM-Pruner, Ma et al. 2023; the
  study's criterion), a sample at a time.
- ``activation``: energy that a unit adds to the residual stream, relative to what is there
  (after Wanda, Sun et al. 2024; absolute energies cannot be compared between layers); knows image
  from text tokens.
- ``magnitude``: Σ w² over a unit's parameters, relative to its layer.
"""


def scores(
    importance: Importance, criterion: str = "taylor", text_weight: float = 0.5
) -> UnitScores:
    """Score units by a criterion, per parameter, so that heads and channels can compete.

    A KV group holds many times the parameters of an MLP channel; ranked by their sums, channels
    would always go first.

    Args:
        importance: what was measured.
        criterion: a name in ``CRITERIA``.
        text_weight: 0 looks at image tokens only, 1 at text tokens only; layers are scored with
            it too. Criteria without modality ignore it.

    Raises:
        AutoPruneError: for an unknown criterion or a weight outside [0, 1].
    """
    if criterion not in CRITERIA:
        raise AutoPruneError(
            f"unknown importance criterion {criterion!r}{did_you_mean(criterion, CRITERIA)}"
        )
    if not 0 <= text_weight <= 1:
        raise AutoPruneError(f"text weight {text_weight:g} is outside [0, 1]: 0.5 is even")

    def of(kind: str) -> np.ndarray:
        return CRITERIA[criterion](importance, kind, text_weight) / _params(importance, kind)

    return UnitScores(
        groups=of("groups"),
        channels=of("channels"),
        heads=of("heads") if importance.magnitude_heads.shape[1] else None,
        layers=_blend(importance.block_influence, text_weight),
        attention=_blend(importance.attention_influence, text_weight),
        mlp=_blend(importance.mlp_influence, text_weight),
    )


def _blend(measured: np.ndarray, text_weight: float) -> np.ndarray:
    """Weigh image against text tokens; a modality that was never seen does not count."""
    image, text = measured[..., IMAGE], measured[..., TEXT]
    if np.isnan(image).all():
        return text
    if np.isnan(text).all():
        return image
    blended: np.ndarray = (1 - text_weight) * image + text_weight * text
    return blended
