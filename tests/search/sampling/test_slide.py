"""A front member's knobs at another size: whose, at which, and that a search asks for them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.toy_campaign import campaign, play

from autoprune.search.knobs.space import parse_space
from autoprune.search.sampling.slide import EVERY, SLIDE, due, expected, slid
from autoprune.tracking.records.trial import SAMPLED, TrialRecord

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
        # One good member: its knobs at the smallest size reach farthest, at a loss of 16 times.
        ([(1, 1.0, 0.96)], (1, 0.25)),
        ([(1, 1.0, 0.99)], (1, 0.0)),
        # The small end is held by a poor one: the good one is thought to be better there too.
        ([(1, 0.0, 0.5), (2, 0.5, 0.97)], (2, 0.0)),
        # Where the small end is as good as it gets, the way up is left.
        ([(1, 0.0, 0.9)], (1, 0.5)),
        # Between two members from the nearer one.
        ([(1, 0.0, 0.84), (2, 0.75, 0.97)], (1, 0.25)),
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


@pytest.mark.parametrize(
    ("start", "size", "loss"),
    [(0.5, 0.5, 0.1), (0.5, 0.25, 0.2), (0.5, 0.0, 0.4), (0.0, 1.0, 0.02)],
)
def test_loss_doubles_each_quarter_of_the_way_down(start: float, size: float, loss: float) -> None:
    assert expected(0.9, start, size) == pytest.approx(1 - loss)


def test_what_retains_all_is_thought_to_lose_something_below() -> None:
    assert expected(1.02, 1.0, 0.5) == pytest.approx(0.96)


def test_what_was_tried_is_not_tried_again_and_what_promises_nothing_is_not_tried() -> None:
    front = [record(1, 0.0, 0.5), record(2, 1.0, 0.97)]
    tried = list(front)
    sizes = []
    while (found := slid(front, tried, SPACE, anything)) is not None:
        parent, knobs = found
        sizes.append((parent, knobs["size"]))
        other = record(len(tried) + 1, 0.0, 0.1)
        tried.append(other.model_copy(update={"knobs": knobs, "parent": parent}))
    assert len(set(sizes)) == len(sizes)
    assert (2, 0.25) in sizes  # a loss of 0.24
    assert (1, 1.0) not in sizes  # would retain less than what is there


def test_members_that_no_knobs_describe_are_no_parents_but_count() -> None:
    good, other = record(1, 0.5, 0.97), record(2, 1.0, 0.98)
    moved = record(3, 0.0, 0.9, layout={"heads": (1,)})
    first = slid([good, other], [good, other], SPACE, anything)
    assert first == (1, {"size": 0.0, "temperature": 0.1})
    # The small end is taken, by a trial that is no parent.
    second = slid([moved, good, other], [moved, good, other], SPACE, anything)
    assert second == (1, {"size": 0.25, "temperature": 0.1})
    assert slid([moved], [moved], SPACE, anything) is None
    outside = slid([good, other], [good, other], SPACE, lambda knobs: knobs["temperature"] == 0.2)
    assert outside is not None
    assert outside[0] == 2


def test_a_space_without_a_range_of_sizes_has_none() -> None:
    fixed = SPACE.model_copy(update={"knobs": {**SPACE.knobs, "size": 0.5}})
    assert slid([record(1, 0.5, 0.5)], [], fixed, anything) is None


def test_every_second_proposal_of_a_sampler_that_learns_is_one(tmp_path: Path) -> None:
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
