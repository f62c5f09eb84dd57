"""What a cell of this experiment does: build a plan, recover it by a recipe, tune a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from autoprune.evaluation.scores import EvaluationFailed, TaskScores
from autoprune.evaluation.tasks import resolve_tasks
from autoprune.models.backbone import backbone_of
from autoprune.pipeline.candidate import Candidate
from autoprune.pipeline.prepare import Preparation, prepare
from autoprune.pipeline.run import Bench, CandidateRun
from autoprune.pruning.plan import PruningPlan
from autoprune.recovery.loop import Recovery, RecoveryDiverged
from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.resources import Resources
from autoprune.search.candidates.decode import decode
from autoprune.search.knobs.space import Space, load_space
from experiments.cells import Cell, Row, pack_scores, read_rows
from experiments.peers.calibration import Calibration
from experiments.peers.catalogue import METHODS, SPACE, context_of
from experiments.peers.flap import biases
from experiments.peers.kept import kept_of
from experiments.peers.methods import Built

REPORT_IMAGES = 384
"""Of the ``report`` split; those that experiments/search_quality scores its fronts on."""

COMMON: Mapping[str, Any] = {
    "recovery": "sft+hidden",
    "distill_weight": 0.5,
    "scope": "full",
    "lora_rank": 16,
    "learning_rate_scale": 1.0,
    "data_fraction": 1.0,
}
"""The common recipe, as knobs; every one of them is tuned for the comparison at equal cost."""

STARTUP = 4
"""Trials of a tuning before TPE models anything; the common recipe is the first."""

FRESH = 1000
"""First seed of recoveries that are reported."""


def preparation(model: str) -> Preparation:
    """Return what this experiment prepares of a dense model."""
    splits = (("search", None), ("report", REPORT_IMAGES))
    return Preparation(model=model, tasks=resolve_tasks(None), splits=splits)


@dataclass(frozen=True)
class Given:
    """What a process needs to open its tools.

    Attributes:
        wanted: the dense model and its exams.
        home: whose cache is used.
        plans: rows of plans that are built.
        budget: FLOPs that a method may spend on one size in all.
    """

    wanted: Preparation
    home: Path
    plans: Path
    budget: float


class Tools:
    """A process's tools: dense model, calibration set and the plans that were built."""

    def __init__(self, given: Given) -> None:
        self.given = given
        self.assets = prepare(given.wanted, given.home / "cache", Resources(1))
        self.bench = Bench(self.assets, Resources(1))
        self.space: Space = load_space(SPACE)

    @cached_property
    def calibration(self) -> Calibration:
        """The calibration set, encoded when it is first needed."""
        return Calibration(self.assets, self.bench.flops)

    @cached_property
    def plans(self) -> dict[str, Row]:
        """Rows of plans, by key."""
        return read_rows(self.given.plans)

    def built(self, what: Mapping[str, Any]) -> Built:
        """Return the plan that a cell is about."""
        row = self.plans[plan_key(what["model"], what["method"], what["removed"], what["plan"])]
        plan = PruningPlan.from_dict(row["kept"])
        found = {}
        if row["bias_params"]:
            found = biases(self.calibration, kept_of(plan, self.assets.spec))
        return Built(plan, row["flops"], found)

    def recipe(self, knobs: Mapping[str, Any], removed: float, seed: int) -> RecoveryRecipe:
        """Return the recipe that AutoPrune makes of recipe knobs at a size."""
        context = context_of(self.calibration, removed, seed)
        return decode(self.space.complete(knobs), context).recipe

    def start(self, built: Built, recipe: RecoveryRecipe) -> CandidateRun:
        """Return a plan under way, with its biases where it has some."""
        candidate = Candidate(built.plan, recipe, self.assets.precision)
        if not built.biases:
            return self.bench.start(candidate)
        # A plan holds no biases: they are put in before the recovery looks at the model.
        run = self.bench.start(replace(candidate, recipe=replace(recipe, scope="none")))
        model = run.recovery.model
        backbone = backbone_of(model)
        for place, layer in enumerate(built.plan.layers):
            for kind, linear in (
                ("attention", backbone.attention_output(place)),
                ("mlp", backbone.mlp_output(place)),
            ):
                assert linear is not None  # whoever has biases keeps every sublayer
                value = torch.from_numpy(built.biases[layer.index, kind]).to(linear.weight.dtype)
                linear.bias = torch.nn.Parameter(value)
        run.candidate = candidate
        run.recovery = Recovery(
            model, self.assets.train, self.bench.teacher, recipe, self.bench.device
        )
        return run


def open_tools(given: Given) -> Tools:
    """Open a process's tools."""
    return Tools(given)


def plan_key(model: str, method: str, removed: float, seed: int) -> str:
    """Return the key of a plan's row; plans that no seed enters are those of seed 0."""
    return f"{model}/{method}/{removed:g}/{seed if METHODS[method].seeded else 0}"


def work(tools: Tools, cell: Cell) -> Row:
    """Do what a cell says."""
    return _STAGES[cell.what["stage"]](tools, cell.what)


def _build(tools: Tools, what: Mapping[str, Any]) -> Row:
    built = METHODS[what["method"]].build(tools.calibration, what["removed"], what["plan"])
    spec = tools.assets.spec
    return {
        "params": spec.params_of(built.plan.shapes) + built.bias_params,
        "bias_params": built.bias_params,
        "flops": built.flops,
        "notes": dict(built.notes),
        "kept": built.plan.to_dict(),
    }


def _common(tools: Tools, what: Mapping[str, Any]) -> Row:
    built = tools.built(what)
    run = tools.start(built, tools.recipe(COMMON, what["removed"], what["seed"]))
    row: Row = {}
    if what["bare"]:
        before = run.rung(0.0, split="report")
        row = {"bare_kl": round(before.proxy_kl, 5), "before": _packed(before.scores)}
        row |= {"bare_retention": _round(before.retention)}
    after = run.rung(1.0, split="report")
    return {
        **row,
        "kl": round(after.proxy_kl, 5),
        "retention": _round(after.retention),
        "after": _packed(after.scores),
        "flops": after.flops,
    }


def _tune(tools: Tools, what: Mapping[str, Any]) -> Row:
    """Tune a plan's recipe by TPE on the ``search`` split until the cost is spent."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    built = tools.built(what)
    domains = {name: d for name, d in tools.space.distributions().items() if name in COMMON}
    sampler = optuna.samplers.TPESampler(seed=what["seed"], n_startup_trials=STARTUP)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial(dict(COMMON))
    spent = built.flops
    trials: list[dict[str, Any]] = []
    while not trials or spent < tools.given.budget:
        trial = study.ask(domains)
        seed = 100 * what["seed"] + trial.number
        run = tools.start(built, tools.recipe(trial.params, what["removed"], seed))
        try:
            found = run.rung(1.0, split="search")
            value, flops = found.retention or 0.0, found.flops
        except (RecoveryDiverged, EvaluationFailed):
            # Where it stopped is not known: it is charged as the dearest trial so far.
            value = 0.0
            flops = max((t["flops"] for t in trials), default=tools.given.budget / 10)
        study.tell(trial, value)
        trials.append({"knobs": trial.params, "search": _round(value), "flops": flops})
        spent += flops
    best = max(trials, key=lambda t: t["search"])
    return {"knobs": best["knobs"], "search": best["search"], "flops": spent, "trials": trials}


def _tuned(tools: Tools, what: Mapping[str, Any]) -> Row:
    """Recover with the recipe that was tuned, afresh, and report."""
    run = tools.start(tools.built(what), tools.recipe(what["knobs"], what["removed"], what["seed"]))
    after = run.rung(1.0, split="report")
    return {
        "kl": round(after.proxy_kl, 5),
        "retention": _round(after.retention),
        "after": _packed(after.scores),
        "flops": after.flops,
    }


_STAGES = {"plans": _build, "common": _common, "tune": _tune, "tuned": _tuned}


def _packed(scores: TaskScores | None) -> str:
    assert scores is not None  # a split was named
    return pack_scores(scores)


def _round(value: float | None) -> float:
    return round(float(value or 0.0), 5)
