"""Fast, repeatable randomness: every sample has its own stream, named by its split and index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_BLOCK = 192


class Dice:
    """Random draws from one named stream.

    Scalars are taken from a block of uniforms drawn at once, which is many times faster than
    asking a NumPy generator for one at a time, and does not depend on how a library turns
    uniforms into choices.
    """

    def __init__(self, *name: int) -> None:
        self.generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(name)))
        self._block: list[float] = []

    def uniform(self) -> float:
        """Return a number in [0, 1)."""
        if not self._block:
            self._block = self.generator.random(_BLOCK).tolist()
        return self._block.pop()

    def below(self, n: int) -> int:
        """Return an integer in [0, n)."""
        return int(self.uniform() * n)

    def pick(self, values: Sequence[T]) -> T:
        """Return one of ``values``."""
        return values[self.below(len(values))]

    def some(self, values: Sequence[T], n: int) -> list[T]:
        """Return ``n`` different ones of ``values`` in random order."""
        rest = list(values)
        return [rest.pop(self.below(len(rest))) for _ in range(n)]
