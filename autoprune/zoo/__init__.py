"""The embedded model and its data: a really trained tiny LLaVA, and digit VQA."""

from autoprune.zoo.model import EMBEDDED, build_config, build_processor, embedded_path
from autoprune.zoo.questions import FAMILIES, Family
from autoprune.zoo.splits import SPLITS, DigitSet, load_split

__all__ = [
    "EMBEDDED",
    "FAMILIES",
    "SPLITS",
    "DigitSet",
    "Family",
    "build_config",
    "build_processor",
    "embedded_path",
    "load_split",
]
