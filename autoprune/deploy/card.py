"""The files that go beside a checkpoint's weights and say what it is and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.models.shape import BackboneSpec
    from autoprune.pipeline.candidate import Candidate
    from autoprune.search.settings import SearchSettings
    from autoprune.tracking.records import FrontPoint

PLAN, RECIPE, SCORES, SEARCH = "plan.json", "recipe.json", "scores.json", "search.json"
MADE_HERE = "Apache-2.0 (the embedded model is part of AutoPrune)"
DATA_LICENCE = (
    "digit questions made by AutoPrune (Apache-2.0) from the handwritten digits of scikit-learn "
    "(Optical Recognition of Handwritten Digits, Alpaydin and Kaynak, UCI, CC BY 4.0)"
)


@dataclass(frozen=True)
class Dense:
    """The model that was cut: its name, content hash, licence, shape, and its scores."""

    ref: str
    identity: str
    licence: str
    spec: BackboneSpec
    scores: Mapping[str, float]


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


def card_files(facts: Facts, how_to_load: str) -> dict[str, str]:
    """Return the card's files by name."""
    plan = {"precision": facts.candidate.precision, **facts.candidate.plan.to_dict()}
    return {
        PLAN: _json(plan),
        RECIPE: _json(facts.candidate.recipe.to_dict()),
        SCORES: _json(scores_of(facts)),
        SEARCH: _json({"trial": facts.trial, "settings": settings_of(facts.settings)}),
        "README.md": readme(facts, how_to_load),
    }


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
            "scores": dict(facts.dense.scores),
        },
        "versions": dict(facts.versions),
    }


def readme(facts: Facts, how_to_load: str) -> str:
    """Return the card in words."""
    from autoprune.cost.parameters import size_of

    dense, recipe = facts.dense, facts.candidate.recipe
    size = size_of(dense.spec, facts.candidate.plan)
    name = f"{facts.settings.name}:{facts.trial}"
    lines = [
        "---",
        f"license: {dense.licence.split(' ')[0].lower()}",
        f"base_model: {dense.ref}",
        "library_name: transformers",
        "tags: [autoprune, pruned]",
        "---",
        f"# {dense.ref}, cut to {size.fraction:.1%}",
        "",
        f"AutoPrune's candidate `{name}`: {size.params:,} of {dense.spec.total_params:,} "
        f"parameters ({size.fraction:.1%} of the whole model; {size.backbone_removed:.1%} of the "
        f"language backbone removed).",
        "",
        *_stored(facts),
        "",
        *_kept(facts),
        "",
        "## Load it",
        "",
        f"{_form(facts)} {_needed(facts)} are enough; AutoPrune is not needed. `directory` is "
        "this folder.",
        "",
        "```python",
        how_to_load.rstrip(),
        "```",
        "",
        "## How it scores",
        "",
        f"On the questions of split `{facts.split}`, which it was not trained on:",
        "",
        "| task | this model | dense model |",
        "|---|---:|---:|",
        *(
            f"| {task} | {score:.3f} | {_figure(dense.scores.get(task))} |"
            for task, score in facts.scores.items()
        ),
        "",
        "## How it was made",
        "",
        f"`plan.json` lists the heads and channels that are kept, layer by layer; `recipe.json` "
        f"is the training that followed: {recipe.name}, {recipe.data_fraction:.0%} of the "
        f"recovery data, {recipe.sample_passes:,} samples seen, seed {recipe.seed}.",
        "",
        "Made again from the dense model and this folder, on any machine with AutoPrune "
        f"{facts.versions.get('autoprune', '')}:",
        "",
        "    autoprune apply DIRECTORY --rebuild -o ANOTHER_DIRECTORY",
        "",
        "## Licences",
        "",
        f"- model: {dense.licence}",
        f"- data: {DATA_LICENCE}",
        "",
    ]
    return "\n".join(lines)


def _form(facts: Facts) -> str:
    """Return how the checkpoint is built, in a sentence."""
    if facts.dense.spec.deployability(facts.candidate.plan.shapes) == "stock":
        return "All layers have one shape, so it loads like any other model."
    return "The layers have different shapes, so the checkpoint brings its own loading code."


def _needed(facts: Facts) -> str:
    """Return the libraries that load the checkpoint."""
    from autoprune.models.precision import PRECISIONS

    quantised = PRECISIONS[facts.candidate.precision].storage is not None
    return "torch, transformers and torchao" if quantised else "torch and transformers"


def _stored(facts: Facts) -> list[str]:
    """Return what its weights take, and how those of the backbone are stored."""
    from autoprune.cost.bytes import dense_bytes, format_bytes, stored_bytes
    from autoprune.models.precision import PRECISIONS

    precision = facts.candidate.precision
    stored = stored_bytes(facts.dense.spec, facts.candidate.plan, precision)
    share = stored / dense_bytes(facts.dense.spec, precision)
    line = (
        f"Its weights take {format_bytes(stored)} ({stored:,} bytes, {share:.1%} of the dense "
        f"model in {PRECISIONS[precision].dtype})"
    )
    if PRECISIONS[precision].storage is None:
        return [f"{line}, in {precision}."]
    lines = [
        f"{line}. The backbone's linear layers are quantised to {precision} (weight-only, by "
        f"torchao); all else is in {PRECISIONS[precision].dtype}."
    ]
    if facts.left:
        lines.append(
            f"{len(facts.left)} of them have widths that do not suit the format and are left: "
            f"{', '.join(f'`{name}`' for name in facts.left)}."
        )
    return lines


def _kept(facts: Facts) -> list[str]:
    """Return what it retains: confirmed over seeds where that is known, else these weights."""
    ability = "of the dense model's ability above chance"
    lines = []
    if facts.point is not None:
        r = facts.point.retention
        lines.append(
            f"Over {r.seeds} training{'s' * (r.seeds != 1)} it retains {r.mean:.3f} "
            f"[{r.low:.3f}, {r.high:.3f}] {ability} (95 %)."
        )
        if facts.point.tie:
            lines.append(
                f"Among the search's trials it is {facts.point.tie}: the 95 % interval of the "
                "difference holds zero."
            )
    if facts.retention is not None:
        what = f" {ability}" * (facts.point is None)
        lines.append(
            f"These weights, of seed {facts.candidate.recipe.seed}, retain "
            f"{facts.retention:.3f}{what}."
        )
    return lines


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
