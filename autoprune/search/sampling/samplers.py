"""The samplers that propose knobs, by name."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.plugins import SAMPLERS as GROUP
from autoprune.plugins import Table

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@dataclass(frozen=True)
class Sampler:
    """One row of the table.

    Attributes:
        build: makes the Optuna sampler for a seed and a number of trials in all.
        slow: a suggestion takes so long (about half a second) that it is asked for one trial
            ahead, while the workers are busy.
        walks: it goes through a list of configurations (see ``grid.cells``); nothing is built.
        slides: some of its proposals are front members at another size (see ``slide``).
    """

    build: Callable[[int, int], BaseSampler]
    slow: bool = False
    walks: bool = False
    slides: bool = True


def _tpe(seed: int, trials: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    # Independent over knobs: in a flat space of a dozen knobs and up to a hundred trials it
    # reaches more hypervolume than the multivariate estimator (experiments/sampler_choice).
    return TPESampler(
        seed=seed, n_startup_trials=_startup(trials), multivariate=False, constant_liar=True
    )


def _gp(seed: int, trials: int) -> BaseSampler:
    from optuna.samplers import GPSampler

    # As it is first asked, Optuna warns that an optional package would make it faster. A proposal
    # is made while workers are busy anyway (``slow``), and the line would stand amid the progress.
    logging.getLogger("optuna._gp.batched_lbfgsb").addFilter(_of_use)
    return GPSampler(seed=seed, n_startup_trials=_startup(trials))


def _of_use(record: logging.LogRecord) -> bool:
    return "'greenlet' package is unavailable" not in record.getMessage()


def _nsga2(seed: int, trials: int) -> BaseSampler:
    from optuna.samplers import NSGAIISampler

    # A generation is complete trials only; at least three generations fit into the search.
    return NSGAIISampler(seed=seed, population_size=int(np.clip(trials // 4, 4, 50)))


def _random(seed: int, trials: int) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


SAMPLERS: Table[Sampler] = Table(
    GROUP,
    {
        "tpe": Sampler(_tpe),
        "gp": Sampler(_gp, slow=True),
        "nsga2": Sampler(_nsga2),
        "random": Sampler(_random, slides=False),
        "grid": Sampler(_random, walks=True, slides=False),
    },
    lambda row: isinstance(row, Sampler),
    "a search.sampling.samplers.Sampler",
)
"""Every sampler that ``--sampler`` takes; packages may add their own (see ``plugins``)."""


def _startup(trials: int) -> int:
    """Trials that are drawn at random (or enqueued) before a model of them is trusted."""
    return int(np.clip(trials // 4, 4, 10))


def derived_seed(*parts: int) -> int:
    """Return a 31-bit seed that depends on all of ``parts``, well mixed."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0] >> 1)


def make_sampler(name: str | Sampler, seed: int, trials: int) -> BaseSampler:
    """Return the sampler ``name``.

    Args:
        name: a key of ``SAMPLERS``, or a row of it.
        seed: equal seeds, equal proposals.
        trials: number of trials of the search in all; start-up phases are cut to fit.

    Raises:
        AutoPruneError: for an unknown name (says the nearest).
    """
    if isinstance(name, str) and name not in SAMPLERS:
        raise AutoPruneError(f"unknown sampler {name!r}{did_you_mean(name, SAMPLERS)}")
    row = SAMPLERS[name] if isinstance(name, str) else name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental arguments
        return row.build(seed, trials)
