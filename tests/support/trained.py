"""Tiny models that have learnt what answers the digit questions have, though not to see."""

from __future__ import annotations

from pathlib import Path

from autoprune.data.encoding import encode_for
from autoprune.recovery.loop import Recovery
from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.zoo.questions import words
from autoprune.zoo.splits import load_split
from support.families import CASES, build_model

VOCABULARY = 192


def trained_checkpoint(name: str, directory: Path, *, images: int = 48, passes: int = 2000) -> Path:
    """Save a model of ``CASES[name]`` with its processor, trained for a few seconds."""
    case = CASES[name]
    vocabulary = ["user:", "assistant:", "answer", "en", *words()]
    processor = case.processor(vocabulary)
    model = build_model(case.config(vocab_size=VOCABULARY, initializer_range=0.1))
    encoded = encode_for(model.config, load_split("train", images), processor)
    recipe = RecoveryRecipe(learning_rate=5e-3, sample_passes=passes, batch_size=16)
    recovery = Recovery(model, encoded, None, recipe)
    recovery.run()
    recovery.finish().save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory
