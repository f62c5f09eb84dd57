"""The embedded model and its data: a really trained tiny LLaVA, and digit VQA."""

from autoprune.zoo.model import EMBEDDED, build_config, build_processor, embedded_path
from autoprune.zoo.questions import FAMILIES, Family
from autoprune.zoo.splits import SPLITS, DigitSet, DigitSplits, load_split, splits_of

__all__ = [
    "EMBEDDED",
    "FAMILIES",
    "SPLITS",
    "DigitSet",
    "DigitSplits",
    "Family",
    "build_config",
    "build_processor",
    "embedded_path",
    "load_split",
    "splits_of",
]
