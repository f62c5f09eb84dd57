"""Train the embedded model: ``python -m autoprune.zoo.train --seed 0 --out DIR``.

First the vision tower alone (:mod:`autoprune.zoo.tower`), then, on its frozen features, the
projector and the backbone with the questions of an image packed into one sequence.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from autoprune.zoo.curriculum import CURRICULUM, Stage, lesson
from autoprune.zoo.dice import Dice
from autoprune.zoo.digits import draw
from autoprune.zoo.measure import accuracy, table
from autoprune.zoo.model import EOS, build_config, build_processor, build_tokenizer
from autoprune.zoo.packing import Packed, decode_places, pack
from autoprune.zoo.questions import FAMILIES
from autoprune.zoo.scenes import draw_scene
from autoprune.zoo.tower import (
    bent_glyphs,
    rescale_tower,
    to_pixels,
    tower_features,
    train_tower,
)

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

_STREAM = 78


@dataclass(frozen=True)
class Settings:
    """How long and how fast the backbone learns; images are never repeated."""

    tower_steps: int = 1500
    steps: int = 3600
    batch: int = 16
    learning_rate: float = 1.0e-3
    warmup: int = 100
    variants: int = 6
    end_weight: float = 0.02


def say(text: str) -> None:
    """Print a line of progress at once."""
    print(text, flush=True)


def make_images(
    seed: int,
    start: int,
    number: int,
    stage: Stage,
    tables: Sequence[tuple[np.ndarray, ...]],
) -> tuple[np.ndarray, list[list[tuple[str, str, str]]]]:
    """Make fresh compositions of train digits and their questions."""
    images, asked = [], []
    for index in range(start, start + number):
        dice = Dice(_STREAM, seed, index)
        scene = draw_scene("train", index, dice)
        asked.append(lesson(scene, dice, stage))
        images.append(draw(scene, dice.generator, dice.pick(tables)))
    return np.stack(images), asked


@torch.no_grad()
def features_of(tower: nn.Module, images: np.ndarray) -> torch.Tensor:
    """Return the frozen features of many images: ``float32 [n, 9, dim]``."""
    return torch.cat(
        [tower_features(tower, to_pixels(images[i : i + 256])) for i in range(0, len(images), 256)]
    )


def prepare_stage(
    model: LlavaForConditionalGeneration,
    seed: int,
    steps: range,
    batch: int,
    stage: Stage,
    tables: Sequence[tuple[np.ndarray, ...]],
) -> tuple[Packed, torch.Tensor]:
    """Make a stage's token rows and vision features before its first step."""
    images, asked = make_images(seed, steps.start * batch, len(steps) * batch, stage, tables)
    return pack(asked, tuple(FAMILIES)), features_of(model.model.vision_tower, images)


def train_backbone(
    model: LlavaForConditionalGeneration,
    seed: int,
    settings: Settings,
    tables: Sequence[tuple[np.ndarray, ...]],
) -> None:
    """Train projector and backbone in place; the tower stays as it is."""
    model.model.vision_tower.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        trained, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    end_token = build_tokenizer().get_vocab()[EOS]
    total, batch = settings.steps, settings.batch
    bounds = [round(stage.start * total) for stage in CURRICULUM] + [total]
    begun, shown, recent = time.perf_counter(), time.perf_counter(), []
    for stage, first, last in zip(CURRICULUM, bounds[:-1], bounds[1:], strict=True):
        packed, features = prepare_stage(model, seed, range(first, last), batch, stage, tables)
        model.train()
        for step in range(first, last):
            shape = 0.02 + 0.98 * (1 + math.cos(math.pi * step / total)) / 2
            rate = settings.learning_rate * min((step + 1) / settings.warmup, shape)
            optimiser.param_groups[0]["lr"] = rate
            rows = np.arange((step - first) * batch, (step - first + 1) * batch)
            logits, answers, at_end = decode_places(model, packed, features[rows], rows)
            loss = nn.functional.cross_entropy(logits, answers)
            whole = loss
            if not stage.statements:
                ends = torch.full_like(answers, end_token)
                whole = loss + settings.end_weight * nn.functional.cross_entropy(at_end, ends)
            optimiser.zero_grad()
            whole.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            right = (logits.argmax(-1) == answers).float().mean()
            recent.append((loss.item(), right.item()))
            if time.perf_counter() - shown > 20 or step + 1 == total:
                left = (time.perf_counter() - begun) / (step + 1) * (total - step - 1)
                mean_loss, mean_right = np.mean(recent[-50:], axis=0)
                say(
                    f"backbone {step + 1}/{total}  loss {mean_loss:.3f}  "
                    f"accuracy {mean_right:.3f}  {left / 60:.1f} min left"
                )
                shown = time.perf_counter()
            if (step + 1) % max(1, total // 4) == 0 and step + 1 < total:
                say(table(accuracy(model, "calibration", 128)))
    model.eval()


def train(out: Path, seed: int, settings: Settings = Settings()) -> dict[str, float]:
    """Train a model from nothing and write its checkpoint to ``out``.

    Returns:
        Accuracy of each family on 256 images of held-out digits (split ``calibration``).
    """
    from transformers import LlavaForConditionalGeneration

    torch.manual_seed(seed)
    begun = time.perf_counter()
    model = LlavaForConditionalGeneration(build_config())
    # Image and word tokens start at one scale: else the backbone takes twice the steps.
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.weight.mul_(0.3)
    tables = bent_glyphs(settings.variants, seed)
    say(f"{sum(p.numel() for p in model.parameters()):,} parameters; digits ready")
    train_tower(model.model.vision_tower, seed, settings.tower_steps, tables, say)
    images, _ = make_images(seed, 0, 256, CURRICULUM[0], tables)
    rescale_tower(model.model.vision_tower, to_pixels(images))
    train_backbone(model, seed, settings, tables)
    scores = accuracy(model, "calibration", 256)
    say(table(scores))
    model.half().save_pretrained(out)
    build_processor().save_pretrained(out)
    say(f"wrote {out} after {(time.perf_counter() - begun) / 60:.1f} min")
    return scores


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m autoprune.zoo.train", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="another seed, another dense model")
    parser.add_argument("--out", type=Path, required=True, help="directory for the checkpoint")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="steps of the backbone")
    parser.add_argument("--tower-steps", type=int, default=Settings.tower_steps)
    parser.add_argument("--batch", type=int, default=Settings.batch, help="images a step")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    settings = Settings(tower_steps=given.tower_steps, steps=given.steps, batch=given.batch)
    train(given.out, given.seed, settings)


if __name__ == "__main__":
    main()
