"""The files that go beside a model's weights and say what it is and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.deploy.readme import readme
from autoprune.errors import AutoPruneError

if TYPE_CHECKING:
    from autoprune.deploy.readme import Loading
    from autoprune.models.shape import BackboneSpec
    from autoprune.pipeline.candidate import Candidate
    from autoprune.search.settings import SearchSettings
    from autoprune.tracking.records.point import FrontPoint

PLAN, RECIPE, SCORES, SEARCH = "plan.json", "recipe.json", "scores.json", "search.json"
CARD = (PLAN, RECIPE, SCORES, SEARCH)
MADE_HERE = "Apache-2.0 (the embedded model is part of AutoPrune)"


@dataclass(frozen=True)
class Dense:
    """The model that was cut.

    Attributes:
        ref: its name, as typed.
        identity: content hash.
        licence: what its card states.
        spec: its shape.
        scores: task -> score.
        vision: whether it reads images.
        hub: whether ``ref`` is a name on the Hugging Face hub.
        base: name there of what it is, or was made from, if that is known.
    """

    ref: str
    identity: str
    licence: str
    spec: BackboneSpec
    scores: Mapping[str, float]
    vision: bool = True
    hub: bool = False
    base: str | None = None


@dataclass(frozen=True)
class Facts:
    """All that a card tells.

    Attributes:
        settings: of the search.
        trial: the trial's number.
        candidate: plan, recipe (with the seed of these very weights) and precision.
        dense: the model that was cut.
        split: whose questions ``scores`` are from.
        scores: of these very weights, task -> score.
        retention, retention_raw: of these very weights.
        point: the confirmed point over several seeds, where there is one.
        versions: of the libraries the search ran on.
        left: linear layers of the backbone that a quantised precision could not take.
        metrics: task -> which of its results the score was read from.
    """

    settings: SearchSettings
    trial: int
    candidate: Candidate
    dense: Dense
    split: str
    scores: Mapping[str, float]
    retention: float | None
    retention_raw: float | None
    point: FrontPoint | None
    versions: Mapping[str, str]
    left: tuple[str, ...] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """What the card's files hold; the same whichever format the model itself is in."""

    plan: Mapping[str, Any]
    recipe: Mapping[str, Any]
    scores: Mapping[str, Any]
    search: Mapping[str, Any]

    def files(self, loading: Loading) -> dict[str, str]:
        """Return the files by name; only the README depends on how the model is loaded."""
        return {
            PLAN: _json(self.plan),
            RECIPE: _json(self.recipe),
            SCORES: _json(self.scores),
            SEARCH: _json(self.search),
            "README.md": readme(self.scores, self.recipe, self.search, loading),
        }


def read_card(directory: Path) -> Card:
    """Return the card of a checkpoint that AutoPrune wrote.

    Raises:
        AutoPruneError: a file is not readable, or an earlier version left too little.
    """
    card = Card(*card_values(directory))
    if "form" not in card.scores:
        raise AutoPruneError(
            f"{directory} was written by an earlier version, whose card says too little: make it "
            f"again with 'autoprune apply {directory} --rebuild -o DIR'"
        )
    return card


def card_values(directory: Path) -> tuple[dict[str, Any], ...]:
    """Return what the four files of a card hold.

    Raises:
        AutoPruneError: one is not there, or holds no JSON object.
    """
    found = []
    for name in CARD:
        try:
            value = json.loads((directory / name).read_text())
            if not isinstance(value, dict):
                raise ValueError("no JSON object")
        except (OSError, ValueError) as error:
            raise AutoPruneError(
                f"{directory / name} cannot be read ({error}): copy the checkpoint again"
            ) from None
        found.append(value)
    return tuple(found)


def card_files(facts: Facts, loading: Loading) -> dict[str, str]:
    """Return the card's files by name."""
    plan = {"precision": facts.candidate.precision, **facts.candidate.plan.to_dict()}
    card = Card(
        plan=plan,
        recipe=facts.candidate.recipe.to_dict(),
        scores=scores_of(facts),
        search={"trial": facts.trial, "settings": settings_of(facts.settings)},
    )
    return card.files(loading)


def settings_of(settings: SearchSettings) -> dict[str, Any]:
    """Return a search's settings without what is this machine's alone."""
    here = {"home", "tracking_uri", "storage", "ray_address"}
    return settings.model_dump(mode="json", exclude=here)


def scores_of(facts: Facts) -> dict[str, Any]:
    """Return ``scores.json``: these weights' own scores, the confirmed ones, the dense model's."""
    from autoprune.cost.bytes import dense_bytes, stored_bytes
    from autoprune.cost.parameters import size_of

    size = size_of(facts.dense.spec, facts.candidate.plan)
    stored = stored_bytes(facts.dense.spec, facts.candidate.plan, facts.candidate.precision)
    return {
        "params": size.params,
        "fraction": size.fraction,
        "backbone_removed": size.backbone_removed,
        "bytes": stored,
        "bytes_fraction": stored / dense_bytes(facts.dense.spec, facts.candidate.precision),
        "precision": facts.candidate.precision,
        "not_quantised": list(facts.left),
        "split": facts.split,
        "seed": facts.candidate.recipe.seed,
        "scores": dict(facts.scores),
        "retention": facts.retention,
        "retention_raw": facts.retention_raw,
        "confirmed": None if facts.point is None else facts.point.model_dump(mode="json"),
        "dense": {
            "model": facts.dense.ref,
            "identity": facts.dense.identity,
            "params": facts.dense.spec.total_params,
            "licence": facts.dense.licence,
            "hub": facts.dense.hub,
            "base_model": facts.dense.base,
            "scores": dict(facts.dense.scores),
        },
        "form": facts.dense.spec.deployability(facts.candidate.plan.shapes),
        "recovery": facts.candidate.recipe.name,
        "vision": facts.dense.vision,
        "metrics": dict(facts.metrics),
        "versions": dict(facts.versions),
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
