"""How many of a search's trials will reach each rung, said before it starts."""

from __future__ import annotations

import math

from autoprune.search.fidelity.halving import Halving
from autoprune.search.knobs.space import Space
from autoprune.search.sampling.refine import refined_trials
from autoprune.search.sampling.samplers import SAMPLERS
from autoprune.search.sampling.slide import due
from autoprune.search.settings import SearchSettings

RANKS_WELL = 0.3
"""How often a slid or refined trial or a starting point is stopped, as a share of what chance says.

They begin at the front, and so seldom stand in a rung's worst part. Measured on searches of about
28 trials (experiments/search_quality); what the sampler draws is stopped about as often as by
chance.
"""


def reaching(
    settings: SearchSettings, space: Space, beside: int, first: int | None = None
) -> tuple[float, ...]:
    """Return how many of the trials behind the baselines are expected to reach each rung.

    What the sampler draws is taken to be as likely in one place among its peers as in another,
    and rungs to stop their whole share.

    Args:
        settings: of the search.
        space: of which rungs and axes count.
        beside: baselines that run first.
        first: trials that are enqueued, starting points of our own included.
    """
    enqueued = beside if first is None else first
    halving = Halving(seed=settings.seed, first=enqueued)
    axes = len(space.knobs["axis"].values()) if "axis" in space.knobs else 1
    arrived, reached = [0.0] * len(space.rungs), [0.0] * len(space.rungs)
    for number in range(settings.trials):
        free = number < beside or halving.exempt(number) or not settings.early_stopping
        chance = RANKS_WELL if _near_the_front(number, enqueued, settings) else 1.0
        alive = 1.0
        for rung in range(len(space.rungs)):
            arrived[rung] += alive
            reached[rung] += alive if number >= beside else 0.0
            peers = math.floor(arrived[rung] / (axes if rung == 0 else 1))
            if not free and peers >= halving.minimum:
                alive *= 1 - chance * math.floor(peers * halving.share(rung)) / peers
    return tuple(reached)


def _near_the_front(number: int, enqueued: int, settings: SearchSettings) -> bool:
    """Say whether a trial is a starting point, slid or refined, and no draw of the sampler."""
    if number < enqueued:
        return True
    if number >= settings.trials - refined_trials(settings.trials, settings.refine):
        return True
    return SAMPLERS[settings.sampler].slides and due(number - enqueued)
