"""Which knobs moved retention: functional ANOVA over the trials that a search has finished."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from autoprune.deploy.report.model import Importances, Knob
from autoprune.search.knobs.space import KNOBS
from autoprune.search.sampling.refine import REFINE
from autoprune.search.study import contains, snapped
from autoprune.tracking.records.trial import TrialRecord

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

EVALUATOR = "fANOVA (Hutter et al., ICML 2014; Optuna's)"
TARGET = "retention at the end of a trial's recovery, on the search's images"

LEAST = 10
"""Trials from which anything is said: with fewer, a forest finds what it likes."""

TREES, SHUFFLES = 32, 19
"""Of the forest; and times that retentions are shuffled. A knob that explains more than in all 19
is beyond chance at 5 %."""


def knob_importances(
    records: Sequence[TrialRecord], distributions: Mapping[str, BaseDistribution], seed: int = 0
) -> Importances:
    """Return the share of the spread in retention that each sampled knob explains.

    Trials count that have spent all of their recovery, lie within the space and were not refined
    (no knobs say what a refined one is). Each share is set against what the same forest makes of
    shuffled retentions.

    Args:
        records: of a search.
        distributions: the knobs that it samples.
        seed: of the forest and the shuffles.
    """
    full = [
        record
        for record in records
        if record.state == "complete"
        and record.retention is not None
        and record.origin != REFINE
        and all(
            name in record.given and contains(domain, record.given[name])
            for name, domain in distributions.items()
        )
    ]
    open_knobs = {
        name: domain
        for name, domain in distributions.items()
        if not domain.single() and len({record.given[name] for record in full}) > 1
    }
    retentions = np.array([record.retention for record in full], dtype=float)
    found = Importances(
        evaluator=EVALUATOR, target=TARGET, trials=len(full), varied=len(open_knobs)
    )
    if len(full) < LEAST:
        few = "1 trial has" if len(full) == 1 else f"{len(full) or 'No'} trials have"
        note = f"{few} run to the end with knobs of the space: too few to say ({LEAST} are needed)"
        return found.model_copy(update={"note": note})
    if not open_knobs or np.ptp(retentions) == 0:
        note = "all these trials are alike in their knobs or in their retention"
        return found.model_copy(update={"note": note})
    rows = [{n: snapped(d, record.given[n]) for n, d in open_knobs.items()} for record in full]
    shares = _shares(rows, open_knobs, retentions, seed)
    rng = np.random.default_rng(seed)
    shuffled = [
        _shares(rows, open_knobs, rng.permutation(retentions), seed) for _ in range(SHUFFLES)
    ]
    knobs = [
        Knob(
            name=name,
            meaning=KNOBS[name].meaning if name in KNOBS else "",
            share=share,
            chance=max(one[name] for one in shuffled),
        )
        for name, share in shares.items()
    ]
    knobs.sort(key=lambda knob: -knob.share)
    return found.model_copy(update={"knobs": tuple(knobs), "note": _note(knobs, len(full))})


def _shares(
    rows: Sequence[Mapping[str, object]],
    distributions: Mapping[str, BaseDistribution],
    retentions: np.ndarray,
    seed: int,
) -> dict[str, float]:
    import optuna
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.trial import create_trial

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a study of its own is nobody's news
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(direction="maximize")
            for row, value in zip(rows, retentions, strict=True):
                study.add_trial(
                    create_trial(
                        params=dict(row), distributions=dict(distributions), value=float(value)
                    )
                )
            found = FanovaImportanceEvaluator(n_trees=TREES, seed=seed).evaluate(study)
    finally:
        optuna.logging.set_verbosity(level)
    return {name: max(0.0, float(value)) for name, value in found.items()}


def _note(knobs: Sequence[Knob], trials: int) -> str:
    beyond = sum(knob.beyond for knob in knobs)
    if beyond:
        do = "knob explains" if beyond == 1 else "knobs explain"
        told = (
            f"{beyond} {do} more than in each of {SHUFFLES} shuffles of the retentions; of "
            f"{len(knobs)}, {len(knobs) / (SHUFFLES + 1):.1f} would by chance"
        )
    else:
        told = (
            "no knob explains more than shuffled retentions do: these trials do not tell which "
            "knobs matter"
        )
    if trials < 4 * len(knobs):
        told += f". {len(knobs)} knobs over {trials} trials are thin ground"
    return told
