"""One search in this process, trial after trial, whose clock counts FLOPs instead of seconds.

The campaign, its sampler, its halving and its refinement are those of ``autoprune search``; only
Ray is left out. So a search ends after an amount of work, whatever else the machine does, and
equal seeds give equal searches.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoprune.pipeline.assets import Assets
from autoprune.pipeline.prepare import prepare
from autoprune.pipeline.run import Bench
from autoprune.resources import Resources
from autoprune.search.campaign import Campaign
from autoprune.search.knobs.grid import cells
from autoprune.search.knobs.space import Space, load_space
from autoprune.search.knobs.table import Value
from autoprune.search.problem import PipelineProblem, PreparedSearch, preparation
from autoprune.search.records.storage import open_storage
from autoprune.search.records.store import SearchStore, search_dir
from autoprune.search.sampling.samplers import SAMPLERS
from autoprune.search.settings import SearchSettings, make_settings
from autoprune.search.study import SearchStudy
from autoprune.search.trial.bench import TrialBench, TrialWork
from autoprune.search.workers.trainable import fields_of
from experiments.cells import pack_scores

REPORT_IMAGES = 384
TARGETS = (0.30, 0.45, 0.60)
"""Shares of the backbone removed at which retention is compared."""

USUAL = 24
"""Trials of a search, by default."""

SLACK = 1e-3
"""A candidate misses its target by a unit at most: less than this share of the backbone."""

BUDGET, SMALLEST = 0.30, 0.70
"""Shares of the backbone removed: the least and the most that a search tries."""


@dataclass(frozen=True)
class Given:
    """What a process needs to open its tools.

    Attributes:
        model: the dense model.
        home: whose cache is used.
    """

    model: str
    home: Path


class Tools:
    """The dense model's assets with the ``report`` split beside the ``search`` split."""

    def __init__(self, given: Given) -> None:
        self.given = given
        self._prepared: dict[str, PreparedSearch] = {}
        settings = self.settings({})
        wanted = replace(
            preparation(settings), splits=(("search", None), ("report", REPORT_IMAGES))
        )
        cache = given.home / "cache"
        self.assets: Assets = prepare(wanted, cache, Resources(1.0), lambda text: None)
        self.bench = Bench(self.assets, Resources(1.0))

    def settings(self, changes: Mapping[str, Any]) -> SearchSettings:
        """Return the settings of a search from 30 to 70 % of the backbone removed."""
        from autoprune.pipeline.prepare import inspect

        spec = inspect(self.given.model).spec

        def text(removed: float) -> str:
            kept = spec.outside_params + round((1 - removed) * spec.backbone_params)
            return f"{kept}-params"

        values = {
            "model": self.given.model,
            "budgets": (text(BUDGET),),
            "min_size": text(SMALLEST),
            "home": self.given.home,
            "workers": 1,
            "trials": 10_000,
        }
        return make_settings({**values, **changes})

    def prepared(self, settings: SearchSettings, space: Space) -> PreparedSearch:
        """Return the search's context and baselines."""
        return PipelineProblem().prepare(settings, space, lambda text: None)


def search(
    tools: Tools, changes: Mapping[str, Any], space: Space | str, budget: float
) -> list[dict[str, Any]]:
    """Run one search until ``budget`` FLOPs are spent, and return its trials.

    Args:
        tools: of this process.
        changes: settings that differ from the defaults.
        space: or its name.
        budget: FLOPs of trials; what preparing costs is the same for all and added later.

    Returns:
        One dictionary a trial that ended: number, origin, state, size (share of the whole),
        removed (of the backbone), values and proxies by rung, retention on ``search`` and, for
        full fidelity, on ``report`` (which nothing here reads), spent (FLOPs of the search at
        its end), knobs. Those that the search would be asked for at a target have their
        ``candidate`` too, and their ``answers`` on ``report``, packed.
    """
    space = load_space(space) if isinstance(space, str) else space
    with tempfile.TemporaryDirectory(prefix="search-quality-") as scratch:
        # FLOPs stand for seconds: the search's own rules of time and budget apply.
        settings = tools.settings({**changes, "max_hours": budget / 3600, "name": "one"})
        # So many configurations are enqueued as in a search of the usual length.
        space = PipelineProblem().narrow(settings, space).space
        prepared = tools.prepared(settings.model_copy(update={"trials": USUAL}), space)
        store = SearchStore(search_dir(Path(scratch), "one"))
        store.open(settings)
        spent = 0.0
        with store.lock():
            study = SearchStudy(
                open_storage(None, store.journal),
                "one",
                space.distributions(),
                settings.sampler,
                settings.seed,
                USUAL,
                settings.objective,
                _walk(settings, space),
            )
            campaign = Campaign(
                settings,
                space,
                store,
                study,
                baselines=prepared.baselines,
                clock=lambda: spent,
            )
            work = TrialWork(b"", prepared.context, space, settings.rung_share)
            bench = TrialBench(tools.bench, work)
            rows, models = [], {}
            while (job := campaign.next_job()) is not None:
                run = bench.start(job)
                proxies: list[float] = []
                report: dict[str, Any] = {}
                for index, share in enumerate(space.rungs):
                    last = index == len(space.rungs) - 1
                    measured = run.rung(share, share > 0 or last)
                    fields = {**run.describe(), **fields_of(measured)}
                    spent += measured.flops
                    proxies.append(round(measured.proxy_kl, 5))
                    fields |= {"rung": index, "fidelity": share}
                    goes_on = campaign.arrived(job.number, fields)
                    if not goes_on:
                        campaign.stopped(job.number)
                        break
                else:
                    scores = run.run.score("report")
                    report = {"report": _retention(tools, scores)}
                    models[job.number] = {
                        "candidate": run.run.candidate.to_dict(),
                        "answers": pack_scores(scores),
                    }
                    campaign.finished(job.number)
                row = {**_row(campaign, job.number), "proxies": proxies, "spent": spent}
                rows.append(row | report)
    for target in TARGETS:
        if (found := picked(rows, target)) is not None:
            found |= models[found["trial"]]
    return rows


def _walk(settings: SearchSettings, space: Space) -> list[dict[str, Value]]:
    """Return the cells of a grid in an order drawn by the seed; nothing for other samplers."""
    if not SAMPLERS[settings.sampler].walks:
        return []
    walk = cells(space)
    random.Random(settings.seed).shuffle(walk)
    return walk


def picked(rows: list[dict[str, Any]], target: float) -> dict[str, Any] | None:
    """Return the trial that retains most on ``search`` of those that remove ``target`` or more."""
    fits = [row for row in rows if row["search"] is not None and row["removed"] >= target - SLACK]
    return max(fits, key=lambda row: float(row["search"]), default=None)


def _retention(tools: Tools, scores: Any) -> float:
    from autoprune.evaluation.retention import retention

    return round(retention(scores, tools.assets.exams["report"].dense).value, 5)


def _row(campaign: Campaign, number: int) -> dict[str, Any]:
    record = campaign.records[number]
    return {
        "trial": number,
        "origin": record.origin,
        "state": record.state,
        "axis": record.axis,
        "recovery": record.recovery,
        "size": record.fraction,
        "params": record.params,
        "removed": record.backbone_removed,
        "values": [None if v is None else round(v, 5) for v in record.rung_values],
        "search": record.retention if record.state == "complete" else None,
        "knobs": record.given,
    }
