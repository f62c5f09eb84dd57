"""FLAP (An et al. 2023, arXiv 2312.11983): units whose input hardly fluctuates go.

The score of an input feature of an out-projection is its variance over calibration tokens times
the squared norm of the weight's column (its WIFV); scores are standardised within each layer's
module, a head has the mean of its features, and all heads and channels of the model are ranked
together, a head counting as what it holds in channels (its AL-AM). What the removed features are
on average then goes on as a bias of the out-projection.

As in its released code, and unlike its paper, the scores of attention features are squared before
they are standardised. Unlike in its code the best unit of each sublayer stays, since a bias needs
a projection that it belongs to.
"""

from __future__ import annotations

import numpy as np

from experiments.peers.calibration import Calibration
from experiments.peers.kept import Kept, cut, ranked, target_of
from experiments.peers.methods import Built


def flap(calibration: Calibration, removed: float, seed: int) -> Built:
    """FLAP whole: its scores, its adaptive structure and its bias compensation.

    The biases count: units make room for them.
    """
    spec = calibration.spec
    room = 2 * len(spec.layers) * spec.hidden_size
    kept = _kept(calibration, target_of(spec, removed) - room)
    return Built(kept.plan(spec), _flops(calibration), biases(calibration, kept))


def flap_plan(calibration: Calibration, removed: float, seed: int) -> Built:
    """FLAP without its biases: what a plan can hold."""
    kept = _kept(calibration, target_of(calibration.spec, removed))
    return Built(kept.plan(calibration.spec), _flops(calibration))


def metrics(calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """Return the standardised scores of heads ``[L, H]`` and of channels ``[L, C]``."""
    seen, layers = calibration.observed, range(len(calibration.spec.layers))
    norms = [
        [linear.weight.detach().double().square().sum(0).numpy() for linear in pair]
        for pair in (calibration.outputs(index) for index in layers)
    ]
    attention = seen.attention_variance * np.stack([pair[0] for pair in norms])
    mlp = seen.mlp_variance * np.stack([pair[1] for pair in norms])
    features = _standardised(attention**2)
    heads = features.reshape(len(features), -1, calibration.backbone.head_dim).mean(2)
    return heads, _standardised(mlp)


def biases(calibration: Calibration, kept: Kept) -> dict[tuple[int, str], np.ndarray]:
    """Return the mean contribution of the removed features, by layer and sublayer."""
    seen = calibration.observed
    found = {}
    for index in range(len(calibration.spec.layers)):
        attention, mlp = calibration.outputs(index)
        heads = np.repeat(kept.groups[index], calibration.spec.q_per_group)
        gone = (~np.repeat(heads, calibration.backbone.head_dim), ~kept.channels[index])
        means = (seen.attention_mean[index], seen.mlp_mean[index])
        for name, linear, off, mean in zip(
            ("attention", "mlp"), (attention, mlp), gone, means, strict=True
        ):
            found[index, name] = linear.weight.detach().double().numpy() @ (mean * off)
    return found


def _kept(calibration: Calibration, target: int) -> Kept:
    heads, channels = metrics(calibration)
    per_group = calibration.spec.q_per_group
    groups = heads.reshape(len(heads), -1, per_group).mean(2)
    everything = Kept.everything(calibration.spec)
    return cut(calibration.spec, everything, ranked(groups, channels), target)


def _standardised(scores: np.ndarray) -> np.ndarray:
    mean, spread = scores.mean(1, keepdims=True), scores.std(1, ddof=1, keepdims=True)
    standardised: np.ndarray = (scores - mean) / spread
    return standardised


def _flops(calibration: Calibration) -> float:
    return calibration.forward_flops(len(calibration.encoded))
