"""A candidate: what to keep, how to recover it, in which precision. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.identity import content_hash
from autoprune.models.precision import PRECISIONS, precision_of
from autoprune.pruning.plan import PruningPlan
from autoprune.recovery.recipe import RecoveryRecipe

__all__ = ["PRECISIONS", "Candidate"]


@dataclass(frozen=True)
class Candidate:
    """A plan and a recipe; with the dense model they determine the small model.

    A quantised ``precision`` is a last stage: recovery runs in its ``dtype``, and what comes
    out is quantised.

    Raises:
        AutoPruneError: for an unknown precision.
    """

    plan: PruningPlan
    recipe: RecoveryRecipe
    precision: str = "float32"

    def __post_init__(self) -> None:
        precision_of(self.precision)

    @property
    def identity(self) -> str:
        """A hash: equal for candidates that are equal."""
        return content_hash(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values that :meth:`from_dict` reads."""
        return {
            "plan": self.plan.to_dict(),
            "recipe": self.recipe.to_dict(),
            "precision": self.precision,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Candidate:
        """Read a candidate back.

        Raises:
            AutoPruneError: for a plan or a recipe that is not one.
        """
        return cls(
            plan=PruningPlan.from_dict(values["plan"]),
            recipe=RecoveryRecipe.from_dict(values["recipe"]),
            precision=str(values["precision"]),
        )
