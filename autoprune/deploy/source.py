"""What is to be applied: a trial of a search, or a checkpoint that is to be made again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.deploy.card import CARD, card_values
from autoprune.errors import AutoPruneError

if TYPE_CHECKING:
    from autoprune.evaluation.scores import TaskScores
    from autoprune.pipeline.candidate import Candidate
    from autoprune.pruning.layout import Layout
    from autoprune.search.knobs.space import Space
    from autoprune.search.records.store import SearchStore
    from autoprune.search.settings import SearchSettings
    from autoprune.tracking.records.point import FrontPoint
    from autoprune.tracking.records.summary import SearchSummary
    from autoprune.tracking.records.trial import TrialRecord

WEIGHTS = "weights.npz"


@dataclass(frozen=True)
class KeptScores:
    """How a candidate's weights scored, when they were made, on the questions of a split.

    ``metrics`` says which result of a task its score was read from, where that is known.
    """

    split: str
    scores: Mapping[str, float]
    retention: float | None
    retention_raw: float | None
    metrics: Mapping[str, str] = field(default_factory=dict)


def metrics_of(scores: TaskScores) -> dict[str, str]:
    """Return by task the result that its score was read from."""
    return {task.name: task.metric for task in scores.tasks}


@dataclass(frozen=True)
class Source:
    """A candidate and what is known of it.

    Attributes:
        name: as a user names it: ``demo:7``, or a directory.
        settings, space: of its search.
        trial: its number there.
        candidate: plan, recipe and precision; None for a trial of which only knobs are known.
        knobs, seed: of the trial.
        layout: of the trial, where its knobs do not say it.
        plan: identity of the trial's plan, as recorded.
        weights: a file of arrays or a checkpoint directory that holds its recovered weights.
        kept: how those scored on ``confirm``; where none were kept, how the trial itself did on
            ``search``.
        point: the confirmed point over several seeds.
        dense_scores: of the dense model on the ``confirm`` split.
        dense_identity: content hash of the dense model, where it was noted.
        versions: of the libraries the search ran on.
    """

    name: str
    settings: SearchSettings
    space: Space
    trial: int
    candidate: Candidate | None
    knobs: Mapping[str, Any]
    seed: int
    weights: Path | None
    kept: KeptScores | None
    point: FrontPoint | None
    dense_scores: Mapping[str, float]
    dense_identity: str | None
    versions: Mapping[str, str]
    layout: Layout | None = None
    plan: str = ""


def parse_trial(reference: str) -> tuple[str, int]:
    """Return the search and the number of ``NAME:TRIAL``.

    Raises:
        AutoPruneError: it does not have that form.
    """
    name, _, number = reference.rpartition(":")
    number = number.removeprefix("trial-")
    if not name or not number.isdigit():
        raise AutoPruneError(
            f"{reference!r} is not NAME:TRIAL: write the search and the trial's number, "
            "such as demo:7 ('autoprune front NAME' lists them)"
        )
    return name, int(number)


def from_search(store: SearchStore, trial: int) -> Source:
    """Return a trial of a search.

    Raises:
        AutoPruneError: the search has no such trial, or it never got a candidate.
    """
    records = store.records()
    if trial not in records:
        there = f"it has trials {min(records)} to {max(records)}" if records else "it has none yet"
        raise AutoPruneError(
            f"search {store.name!r} has no trial {trial}: {there}, and 'autoprune front "
            f"{store.typed}' lists those worth having"
        )
    record = records[trial]
    if record.params is None:
        raise AutoPruneError(
            f"trial {trial} of search {store.name!r} {record.state} before it had a model"
            f"{' (' + record.reason + ')' if record.reason else ''}: choose one that 'autoprune "
            f"front {store.typed}' lists"
        )
    from autoprune.pruning.layout import Layout
    from autoprune.search.knobs.space import with_precisions

    folder = store.directory / "kept" / f"{trial:04d}"
    candidate = kept_candidate(folder, f"{store.name}:{trial}")
    summary = store.summary()
    settings = store.settings({"home": store.directory.parent.parent})
    seed = record.seed if candidate is None else candidate.recipe.seed
    return Source(
        name=f"{store.name}:{trial}",
        settings=settings,
        space=with_precisions(store.space(), settings.precisions),
        trial=trial,
        candidate=candidate,
        knobs={name: value for name, value in record.knobs.items() if value is not None},
        seed=seed,
        weights=folder / WEIGHTS if (folder / WEIGHTS).is_file() else None,
        kept=_kept_scores(store, record, seed, summary),
        point=_point(summary, trial),
        dense_scores={} if summary is None else summary.dense.scores,
        dense_identity=None,
        versions=record.versions,
        layout=None if record.layout is None else Layout.from_dict(record.layout),
        plan=record.plan,
    )


def kept_candidate(folder: Path, name: str) -> Candidate | None:
    """Return the plan and recipe that a search kept of a trial; None where it kept none.

    Args:
        folder: that the search keeps the trial in.
        name: of the trial, as typed.

    Raises:
        AutoPruneError: the file was damaged.
    """
    from autoprune.pipeline.candidate import Candidate

    path = folder / "candidate.json"
    try:
        return Candidate.from_dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AutoPruneError(
            f"{path} was damaged ({type(error).__name__}: {error}): remove it, then 'autoprune "
            f"export {name} --rebuild -o DIR' trains it again"
        ) from None


def is_checkpoint(directory: Path) -> bool:
    """Whether ``apply`` wrote this directory."""
    return all((directory / name).is_file() for name in CARD)


def from_checkpoint(directory: Path, home: Path) -> Source:
    """Return the candidate of a checkpoint that ``apply`` wrote, anywhere.

    Args:
        directory: the checkpoint.
        home: where caches go.

    Raises:
        AutoPruneError: its card cannot be read.
    """
    from autoprune.pipeline.candidate import Candidate
    from autoprune.search.knobs.space import load_space
    from autoprune.search.settings import make_settings
    from autoprune.tracking.records.point import FrontPoint

    try:
        plan, recipe, scores, search = card_values(directory)
        precision = plan.pop("precision")
        settings = make_settings({**search["settings"], "home": home})
        point = scores["confirmed"]
        return Source(
            name=str(directory),
            settings=settings,
            space=load_space("hybrid"),  # the candidate is known: nothing is sampled
            trial=search["trial"],
            candidate=Candidate.from_dict({"plan": plan, "recipe": recipe, "precision": precision}),
            knobs={},
            seed=recipe["seed"],
            weights=directory,
            kept=KeptScores(
                scores["split"],
                scores["scores"],
                scores["retention"],
                scores["retention_raw"],
                scores.get("metrics") or {},
            ),
            point=None if point is None else FrontPoint.model_validate(point),
            dense_scores=scores["dense"]["scores"],
            dense_identity=scores["dense"]["identity"],
            versions=scores["versions"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AutoPruneError(
            f"the card of {directory} cannot be read ({type(error).__name__}: {error}): copy the "
            "checkpoint again"
        ) from error


def _point(summary: SearchSummary | None, trial: int) -> FrontPoint | None:
    if summary is None:
        return None
    found = (p for p in (*summary.points, *summary.baselines) if p.trial == trial)
    return next(found, None)


def _kept_scores(
    store: SearchStore, record: TrialRecord, seed: int, summary: SearchSummary | None
) -> KeptScores | None:
    """Return how the weights scored when the front was confirmed, or else as a trial."""
    from autoprune.evaluation.scores import TaskScores

    path = store.directory / "confirm" / f"{record.trial:04d}-{seed}.json"
    if summary is not None and path.is_file():
        scores = TaskScores.from_dict(json.loads(path.read_text()))
        kept, raw = plain_retention(scores, summary.dense.scores)
        return KeptScores("confirm", scores.by_task, kept, raw, metrics_of(scores))
    if record.state == "complete":
        return KeptScores("search", record.scores, record.retention, record.retention_raw)
    return None


def plain_retention(
    scores: TaskScores, dense: Mapping[str, float]
) -> tuple[float | None, float | None]:
    """Return retention and its raw form from the dense model's scores alone."""
    from dataclasses import replace

    from autoprune.evaluation.retention import retention
    from autoprune.evaluation.scores import TaskScores

    if set(dense) != set(scores.by_task):
        return None, None
    tasks = tuple(replace(t, score=dense[t.name], values=None) for t in scores.tasks)
    found = retention(scores, TaskScores(tasks))
    return found.value, found.raw
