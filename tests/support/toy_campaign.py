"""A campaign over the toy problem, played step by step without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoprune.search.campaign import Campaign
from autoprune.search.knobs.space import parse_space
from autoprune.search.listener import SearchListener
from autoprune.search.records.storage import open_storage
from autoprune.search.records.store import SearchStore, search_dir
from autoprune.search.settings import make_settings
from autoprune.search.study import SearchStudy
from autoprune.search.work import Baseline, TrialJob
from autoprune.tracking.records.terms import Budget
from support.search_toy import SPACE, quality

TOY = parse_space(SPACE, "toy")
BASELINES = (
    Baseline("uniform", {"size": 1.0, "axis": "width", "temperature": 0.0}),
    Baseline("outside", {"size": 1.0, "axis": "hybrid", "temperature": 0.0}),
)


def campaign(
    home: Path,
    listener: SearchListener | None = None,
    budget: Budget | None = None,
    **values: Any,
) -> Campaign:
    settings = make_settings({"name": "toy", "home": home, "trials": 12, "refine": 0, **values})
    store = SearchStore(search_dir(home, "toy"))
    store.open(settings)
    study = SearchStudy(
        open_storage(None, store.journal),
        "toy",
        TOY.distributions(),
        settings.sampler,
        settings.seed,
        settings.trials,
        settings.objective,
        floors=bool(settings.floors),
    )
    return Campaign(
        settings, TOY, store, study, baselines=BASELINES, budget=budget, listener=listener
    )


def fields(job: TrialJob, rung: int) -> dict[str, Any]:
    share = TOY.rungs[rung]
    fraction = 0.3 + 0.3 * float(job.knobs["size"])
    value = quality(job.knobs) * (0.5 + share / 2)
    return {
        "axis": job.knobs["axis"],
        "plan": f"plan-{job.number}",
        "params": int(1000 * fraction),
        "fraction": fraction,
        "backbone_removed": 1 - fraction,
        "rung": rung,
        "fidelity": share,
        "stage_seconds": {"recover": 1.0},
        "flops": 10.0,
        **({"proxy_kl": 1 - value} if rung == 0 else {"retention": value}),
    }


def run_trial(c: Campaign, job: TrialJob, until: int = 2) -> str:
    """Play a worker's part; ``until`` leaves the trial at that rung, as a kill does."""
    for rung in range(until + 1):
        if not c.arrived(job.number, fields(job, rung)):
            c.stopped(job.number)
            return "stopped"
    if until == 2:
        c.finished(job.number)
    return "complete" if until == 2 else "left"


def play(c: Campaign) -> None:
    while (job := c.next_job()) is not None:
        run_trial(c, job)
