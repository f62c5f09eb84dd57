"""A front member's knobs at another size: whose, at which, and that a search asks for them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_campaign import campaign, play

from autoprune.search.slide import EVERY, SLIDE, due, slid
from autoprune.search.space import parse_space
from autoprune.tracking.records import SAMPLED, TrialRecord

SPACE = parse_space(
    """
description: five sizes and one more knob
rungs: [0, 1]
knobs:
  size: {low: 0, high: 1, step: 0.25}
  temperature: {low: 0, high: 1}
""",
    "five",
)


def record(trial: int, size: float, kept: float, **values: Any) -> TrialRecord:
    knobs = {"size": size, "temperature": trial / 10, "decay": None}
    return TrialRecord(trial=trial, state="complete", knobs=knobs, retention=kept, **values)


def anything(knobs: Any) -> bool:
    return True


@pytest.mark.parametrize(
    ("front", "chosen"),
    [
        # The gap in the middle is widest; both neighbours are as near, the smaller is taken.
        ([(1, 0.0, 0.5), (2, 1.0, 0.9)], (1, 0.5)),
        # Of two gaps as wide the steeper one.
        ([(1, 0.0, 0.5), (2, 0.5, 0.9), (3, 1.0, 0.95)], (1, 0.25)),
        ([(1, 0.0, 0.5), (2, 0.5, 0.6), (3, 1.0, 0.95)], (2, 0.75)),
        # Nothing smaller is known: as far below as a loss by the usual slope still leaves most.
        ([(1, 1.0, 0.9)], (1, 0.0)),
        # Nothing larger is known.
        ([(1, 0.0, 0.9)], (1, 0.5)),
    ],
)
def test_the_size_that_promises_most(
    front: list[tuple[int, float, float]], chosen: tuple[int, float]
) -> None:
    records = [record(*row) for row in front]
    parent, size = chosen
    assert slid(records, records, SPACE, anything) == (
        parent,
        {"size": size, "temperature": parent / 10},
    )


def test_what_was_tried_is_not_tried_again() -> None:
    front = [record(1, 0.0, 0.5), record(2, 1.0, 0.9)]
    tried = list(front)
    sizes = []
    while (found := slid(front, tried, SPACE, anything)) is not None:
        parent, knobs = found
        sizes.append(knobs["size"])
        other = record(len(tried) + 1, 0.0, 0.1)
        tried.append(other.model_copy(update={"knobs": knobs, "parent": parent}))
    assert sorted(sizes) == [0.25, 0.5, 0.75]


def test_members_that_no_knobs_describe_are_no_parents_but_count() -> None:
    moved = record(3, 0.5, 0.85, layout={"heads": (1,)})
    front = [record(1, 0.0, 0.5), moved, record(2, 1.0, 0.9)]
    # Without it the middle would be chosen.
    assert slid(front, front, SPACE, anything) == (1, {"size": 0.25, "temperature": 0.1})
    assert slid([moved], front, SPACE, anything) is None
    outside = slid(front, front, SPACE, lambda knobs: knobs["temperature"] == 0.2)
    assert outside == (2, {"size": 0.25, "temperature": 0.2})


def test_a_space_without_a_range_of_sizes_has_none() -> None:
    fixed = SPACE.model_copy(update={"knobs": {**SPACE.knobs, "size": 0.5}})
    assert slid([record(1, 0.5, 0.5)], [], fixed, anything) is None


def test_every_third_proposal_of_a_sampler_that_learns_is_one(tmp_path: Path) -> None:
    c = campaign(tmp_path, trials=20, early_stopping=False)
    play(c)
    proposals = [r for _, r in sorted(c.records.items()) if r.origin in SAMPLED]
    assert [r.origin == SLIDE for r in proposals] == [due(n) for n in range(len(proposals))]
    assert Counter(r.origin for r in proposals)[SLIDE] == len(proposals) // EVERY
    for one in proposals:
        if one.origin == SLIDE:
            assert one.parent is not None
            parent = c.records[one.parent].knobs
            assert {k for k in one.knobs if one.knobs[k] != parent[k]} == {"size"}
            assert one.baseline is None
    told = {t.user_attrs["trial"]: t for t in c.study.trials()}
    assert all(told[r.trial].values is not None for r in proposals)  # the sampler learns from it


@pytest.mark.parametrize("sampler", ["random"])
def test_random_search_stays_random(sampler: str, tmp_path: Path) -> None:
    c = campaign(tmp_path, sampler=sampler)
    play(c)
    assert SLIDE not in {r.origin for r in c.records.values()}
