"""What every sampler keeps to, in a study as a search runs it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from autoprune.search.knobs.space import parse_space
from autoprune.search.records.storage import open_storage
from autoprune.search.sampling.samplers import Sampler
from autoprune.search.study import SearchStudy

SPACE = parse_space(
    """
description: toy
rungs: [0, 0.5, 1]
knobs:
  size: {low: 0, high: 1}
  axis: [width, depth]
  temperature: {low: 0, high: 1}
  protect_first: {low: 0, high: 2, integer: true}
""",
    "toy",
)
TRIALS = 40


def toy_score(knobs: dict[str, Any]) -> tuple[float, float]:
    """Return size and retention of knobs in a made-up world, where ``temperature`` 0.7 is best."""
    size = 0.3 + 0.3 * knobs["size"]
    loss = (knobs["temperature"] - 0.7) ** 2 + 0.1 * (knobs["axis"] == "depth")
    return size, 1.2 * size**0.5 - loss


def play(study: SearchStudy, numbers: range) -> list[dict[str, Any]]:
    """Ask a study for trials and complete each; return their knobs."""
    asked = []
    for number in numbers:
        knobs = study.ask(number)
        size, value = toy_score(knobs)
        study.complete(number, size, value, {1: 0.7 * value})
        asked.append(knobs)
    return asked


def check_sampler(sampler: Sampler | str) -> None:
    """Check a sampler in studies of a made-up world.

    It proposes each knob of the space within its bounds; the same for equal seeds, and something
    else for others; after a kill what it would have proposed; no configuration twice while the
    first still runs; and it goes on after trials that failed or were stopped.

    Args:
        sampler: a row, or the name of one.

    Raises:
        AssertionError: naming the promise that is broken.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)

        def study(journal: str, seed: int = 0) -> SearchStudy:
            storage = open_storage(None, place / journal)
            return SearchStudy(storage, "s", SPACE.distributions(), sampler, seed, TRIALS)

        for knobs in play(study("within"), range(12)):
            assert set(knobs) == set(SPACE.distributions()), f"proposes {sorted(knobs)}"
            SPACE.complete(knobs)
        runs = [play(study(f"seed-{i}", seed), range(12)) for i, seed in enumerate((5, 5, 6))]
        assert runs[0] == runs[1], "equal seeds propose differently"
        assert runs[0] != runs[2], "other seeds propose the same"
        whole = play(study("whole"), range(13))
        halves = [*play(study("half"), range(9)), *play(study("half"), range(9, 13))]
        assert whole == halves, "proposes something else after it was interrupted"
        running = study("running")
        play(running, range(12))
        waiting = [tuple(running.ask(number).values()) for number in range(12, 16)]
        assert len(set(waiting)) == len(waiting), "proposes what is running already"
        _check_survival(study("unlucky"))


def _check_survival(study: SearchStudy) -> None:
    for number in range(16):
        knobs = study.ask(number)
        size, value = toy_score(knobs)
        if number % 4 == 1:
            study.fail(number, "no luck")
        elif number % 4 == 2:
            study.stop(number, size, 1, 0.1)
        else:
            study.complete(number, size, value, {0: -1.0, 1: value})
    study.settle(final=True)
    states = [trial.state.name for trial in study.trials()]
    assert {"RUNNING", "WAITING"}.isdisjoint(states), "leaves trials open"
    assert states.count("FAIL") == 4, "counts failed trials wrongly"
