"""How much of a search fits into a time, by the search's own forecast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autoprune.search.settings import SearchSettings

COUNTS = (24, 96)
"""Numbers of trials that a forecast is made for; between and beyond them it is a line.

A search costs its preparation, the confirmation of as many points as there may be, and so much a
trial. With fewer trials than the first it confirms fewer points, and the line says too much.
"""


@dataclass(frozen=True)
class Fits:
    """What fits into a time.

    Attributes:
        seconds: the time.
        trials: of a search that takes so long in all, rounded down to two figures; 0 where not
            even preparation and confirmation fit.
        workers: that run at once.
        prepare, confirm: seconds before and after the trials.
        trial: seconds of one trial more, all workers together.
        default: seconds of a search as it comes, with ``COUNTS[0]`` trials.
    """

    seconds: float
    trials: int
    workers: int
    prepare: float
    confirm: float
    trial: float
    default: float


def fits(
    settings: SearchSettings,
    seconds: float,
    forecast: Callable[[SearchSettings], tuple[float, ...]],
) -> Fits:
    """Return how many trials a search may have to end within a time.

    Args:
        settings: of the search; its number of trials does not count.
        seconds: to fit into.
        forecast: settings -> seconds of preparation, trials and confirmation.
    """
    few, many = (forecast(settings.model_copy(update={"trials": n})) for n in COUNTS)
    trial = max(0.0, (sum(many) - sum(few)) / (COUNTS[1] - COUNTS[0]))
    room = seconds - sum(few)
    trials = COUNTS[0] + int(room // trial) if trial else 0
    step = 10 ** max(0, len(str(abs(trials))) - 2)
    return Fits(
        seconds=seconds,
        trials=max(0, trials // step * step),
        workers=settings.workers,
        prepare=few[0],
        confirm=few[2],
        trial=trial,
        default=sum(few),
    )


def forecast_of(settings: SearchSettings) -> tuple[float, ...]:
    """Return the seconds of a search's stages on this machine; reads no weights.

    Raises:
        AutoPruneError: for a model that cannot be searched.
    """
    from autoprune.search.knobs.space import load_space, with_precisions
    from autoprune.search.problem import PipelineProblem

    problem = PipelineProblem()
    space = with_precisions(load_space(settings.space), settings.precisions)
    said = problem.forecast(settings, problem.narrow(settings, space).space)
    return said.prepare, said.trials, said.confirm
