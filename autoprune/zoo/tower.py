"""The vision tower, trained alone on what each patch shows, then frozen.

Cosine logits matter: with plain cross entropy the tower keeps little of *where* a patch is, and
the backbone never learns relations.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from autoprune.zoo.dice import Dice
from autoprune.zoo.digits import COLOURS, SIZES, Item, draw, source_digits
from autoprune.zoo.scenes import draw_scene

_STREAM = 77
_SCALE = 12.0
_MEAN = _STD = 0.3


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """Normalise ``uint8 [n, H, W, 3]`` as the processor does: ``float32 [n, 3, H, W]``."""
    scaled = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    return (scaled - _MEAN) / _STD


def bent_glyphs(variants: int, seed: int) -> list[tuple[np.ndarray, ...]]:
    """Return ``variants`` tables like ``glyphs()``, each digit turned, sheared and scaled a bit.

    They stretch the few hundred digits there are to train on; evaluation never sees them.
    """
    from scipy.ndimage import affine_transform

    images, _ = source_digits()
    rng = np.random.default_rng([seed, 5])
    tables = []
    for _ in range(variants):
        table = []
        for size in SIZES:
            out = np.empty((len(images), size, size), dtype=np.float32)
            angle = rng.normal(0, 0.12, len(images))
            shear = rng.normal(0, 0.12, len(images))
            zoom = np.exp(rng.normal(0, 0.06, (len(images), 2))) * 8 / size
            for i, image in enumerate(images):
                c, s = math.cos(angle[i]), math.sin(angle[i])
                matrix = np.array([[c, -s], [s, c]]) @ np.array([[1, 0], [shear[i], 1]])
                matrix = matrix @ np.diag(zoom[i])
                middle = np.full(2, 3.5) - matrix @ np.full(2, (size - 1) / 2)
                affine_transform(image / 255.0, matrix, middle, output=out[i], order=1)
            table.append(np.clip(out, 0, 1))
        tables.append(tuple(table))
    return tables


def patch_labels(scene: Sequence[Item]) -> np.ndarray:
    """Return ``int64 [9, 2]``: each cell's digit (10: none) and colour (6: none)."""
    labels = np.tile(np.array([10, len(COLOURS)]), (9, 1))
    for item in scene:
        labels[item.cell] = item.digit, item.colour
    return labels


class CosineHead(nn.Module):
    """Logits from the angle between features and class directions."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(classes, dim))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map ``[..., dim]`` to ``[..., classes]``."""
        directions = nn.functional.normalize(self.directions, dim=-1)
        return _SCALE * nn.functional.normalize(features, dim=-1) @ directions.T


def tower_features(tower: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Return patch features ``[n, 9, dim]``: the last layer's states without the class token."""
    return tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1][:, 1:]


def train_tower(
    tower: nn.Module,
    seed: int,
    steps: int,
    tables: Sequence[tuple[np.ndarray, ...]],
    say: Callable[[str], None],
    batch: int = 96,
    dim: int = 96,
) -> None:
    """Train ``tower`` (of hidden size ``dim``) in place on scenes of train digits."""
    heads = nn.ModuleList(CosineHead(dim, classes) for classes in (11, len(COLOURS) + 1, 9))
    parameters = [*tower.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05)
    cells = torch.arange(9).repeat(batch)
    tower.train()
    begun = time.perf_counter()
    for step in range(steps):
        rate = min((step + 1) / 50, 0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
        optimiser.param_groups[0]["lr"] = 2e-3 * rate
        images, labels = [], []
        for k in range(batch):
            index = step * batch + k
            dice = Dice(_STREAM, seed, index)
            scene = draw_scene("train", index, dice, digits=(4, 9))
            images.append(draw(scene, dice.generator, dice.pick(tables)))
            labels.append(patch_labels(scene))
        truth = torch.from_numpy(np.concatenate(labels))
        features = tower_features(tower, to_pixels(np.stack(images))).flatten(0, 1)
        losses = [
            nn.functional.cross_entropy(head(features), target)
            for head, target in zip(heads, (truth[:, 0], truth[:, 1], cells), strict=True)
        ]
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if (step + 1) % max(1, steps // 8) == 0:
            parts = " ".join(f"{loss.item():.3f}" for loss in losses)
            left = (time.perf_counter() - begun) / (step + 1) * (steps - step - 1)
            say(f"tower {step + 1}/{steps}  loss {parts}  {left:.0f} s left")
    tower.eval()
    for split in ("calibration", "report"):
        right = held_out(tower, heads, split)
        say(f"tower, held-out {split} digits: {right[0]:.3f} read, {right[1]:.3f} colour")


@torch.no_grad()
def rescale_tower(tower: nn.Module, pixels: torch.Tensor) -> None:
    """Scale the tower's residual stream in place so that its features have a mean square of 1.

    Every layer normalises what it reads, so that scaling all that writes to the stream changes
    nothing else. The projector starts from features of this size.
    """
    factor = tower_features(tower, pixels).square().mean().rsqrt()
    writers = (".out_proj.", ".fc2.", "pre_layrnorm.")
    for name, parameter in tower.named_parameters():
        if any(writer in name for writer in writers):
            parameter.mul_(factor)


@torch.no_grad()
def held_out(tower: nn.Module, heads: nn.ModuleList, split: str) -> tuple[float, float]:
    """Return the share of occupied cells whose digit and whose colour are read right."""
    images, labels = [], []
    for index in range(400):
        dice = Dice(_STREAM + 1, index)
        scene = draw_scene(split, index, dice, digits=(4, 9))
        images.append(draw(scene, dice.generator))
        labels.append(patch_labels(scene))
    truth = torch.from_numpy(np.concatenate(labels))
    there = truth[:, 0] < 10
    features = tower_features(tower, to_pixels(np.stack(images))).flatten(0, 1)[there]
    digit, colour = (
        float((heads[k](features).argmax(-1) == truth[there, k]).float().mean()) for k in (0, 1)
    )
    return digit, colour
