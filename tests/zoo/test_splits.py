"""Digit VQA: splits apart by digit image, samples by index only, the ring, the questions."""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict

import numpy as np
import pytest

from autoprune.data.samples import SampleSet
from autoprune.data.splits import SPLIT_NAMES
from autoprune.errors import AutoPruneError
from autoprune.zoo import FAMILIES, SPLITS, load_split, splits_of
from autoprune.zoo.digits import glyphs, pools, source_digits
from autoprune.zoo.model import UNKNOWN, build_tokenizer
from autoprune.zoo.questions import YES_NO, form


def content(sample) -> tuple:
    return sample.key, np.asarray(sample.image).tobytes(), sample.turns


def images_of(sample_set, indices) -> set[int]:
    return set().union(*(sample_set.digit_images(int(i)) for i in indices))


def arc(ring: np.ndarray, start: float, fraction: float) -> np.ndarray:
    return np.flatnonzero(np.mod(ring - start, 1.0) < fraction)


def test_pools_part_all_digits() -> None:
    together = np.concatenate([np.concatenate(pool) for pool in pools().values()])
    assert sorted(together) == list(range(1797))


@pytest.mark.parametrize(("one", "other"), itertools.combinations(SPLITS, 2))
def test_splits_share_no_digit_image(one: str, other: str) -> None:
    first, second = load_split(one, 200), load_split(other, 200)
    assert not images_of(first, range(200)) & images_of(second, range(200))


def test_digits_are_what_the_scene_says() -> None:
    _, classes = source_digits()
    for digit, images in enumerate(pools()["report"]):
        assert set(classes[images]) == {digit}


@pytest.mark.parametrize("split", SPLITS)
def test_sets_keep_the_protocol(split: str) -> None:
    samples = load_split(split)
    assert isinstance(samples, SampleSet)
    assert len(samples) == len(samples.ring) == len(samples.strata) == SPLITS[split]
    assert samples.ring.dtype == np.float64
    assert samples.strata.dtype == np.int64
    assert samples.ring.min() >= 0
    assert samples.ring.max() < 1
    assert samples[0].image.size == (48, 48)
    assert samples[0].image.mode == "RGB"
    assert len(samples[0].turns) == 8


def test_samples_depend_on_split_and_index_only() -> None:
    small, large = load_split("search", 5), load_split("search", 300)
    backwards = [content(large[i]) for i in reversed(range(5))]
    assert [content(sample) for sample in small] == backwards[::-1]
    assert content(load_split("confirm")[0]) != content(load_split("search")[0])
    assert len({content(sample)[1] for sample in large}) == 300


def test_identity_follows_content() -> None:
    assert load_split("search").identity == load_split("search", SPLITS["search"]).identity
    assert len({load_split(s, n).identity for s in SPLITS for n in (8, 9)}) == 2 * len(SPLITS)


def test_indices_outside_are_refused() -> None:
    samples = load_split("search", 5)
    assert content(samples[-1]) == content(samples[4])
    for index in (5, -6):
        with pytest.raises(IndexError):
            samples[index]


def test_bad_splits_are_one_line_errors() -> None:
    with pytest.raises(AutoPruneError, match="did you mean 'search'"):
        load_split("serach")
    with pytest.raises(AutoPruneError, match="at least 1"):
        load_split("search", 0)


@pytest.mark.parametrize("start", [0.0, 0.37, 0.95])
def test_arcs_of_the_ring_hold_their_share_of_samples_and_of_digit_images(start: float) -> None:
    train = load_split("train", 4000)
    shares = (0.05, 0.2, 0.5)
    arcs = [arc(train.ring, start, share) for share in shares]
    used = [images_of(train, indices) for indices in arcs]
    for share, indices, images in zip(shares, arcs, used, strict=True):
        assert len(indices) == pytest.approx(share * 4000, abs=4)
        # The window of one image a class reaches over each end of the arc.
        assert len(images) <= share * 1100 + 20
        assert len(images) >= share * 1100 - 10
    assert set(arcs[0]) < set(arcs[1]) < set(arcs[2])
    assert used[0] < used[1] < used[2]


def test_an_arc_uses_its_digit_images_about_equally_often() -> None:
    train = load_split("train", 10_000)
    counts = Counter(
        image for index in arc(train.ring, 0.2, 0.2) for image in train.digit_images(int(index))
    )
    often = np.sort(list(counts.values()))
    inner = often[25:]  # those at the arc's two ends are used less
    assert inner.max() < 2.6 * np.median(inner)
    assert inner.min() > np.median(inner) / 2.6


@pytest.fixture(scope="module")
def turns():
    sets = [load_split("train", 3000), load_split("report", 1000)]
    return [turn for samples in sets for sample in samples for turn in sample.turns]


def test_every_family_is_asked_and_answered_in_its_own_words(turns) -> None:
    counts = Counter(turn.source for turn in turns)
    assert set(counts) == set(FAMILIES)
    assert min(counts.values()) > 0.6 * max(counts.values())
    for turn in turns:
        assert turn.answer in FAMILIES[turn.source].answers
    for name, family in FAMILIES.items():
        seen = {turn.answer for turn in turns if turn.source == name}
        assert len(seen) >= len(family.answers) * 0.7, name


def test_existence_is_balanced_and_a_third_of_the_noes_is_adversarial() -> None:
    answers: Counter = Counter()
    hard = asked = 0
    for sample in load_split("train", 3000):
        texts = [(turn.question, turn.answer) for turn in sample.turns if turn.source == "exist"]
        answers.update(answer for _, answer in texts)
        there = {
            word
            for turn in sample.turns
            if turn.source in ("colour", "where")
            for word in turn.question.rstrip("?").split()
            if word.isdigit()
        }
        for question, answer in texts:
            digit = question.rstrip("?").split()[-1]
            if answer == "no" and there:
                asked += 1
                hard += digit in there
    assert answers["yes"] / answers.total() == pytest.approx(0.5, abs=0.03)
    assert set(answers) == set(YES_NO)
    # Only digits that another question names are known here, about 1.4 of 4.5.
    assert 0.05 < hard / asked < 0.34


def test_chance_is_what_the_commonest_answers_reach(turns) -> None:
    by_form: dict = defaultdict(Counter)
    for turn in turns:
        by_form[turn.source, form(turn.question)][turn.answer] += 1
    for name, family in FAMILIES.items():
        forms = [counts for (source, _), counts in by_form.items() if source == name]
        best = sum(max(counts.values()) for counts in forms)
        # The commonest of a finite sample lies a little above the commonest of all.
        assert best / sum(c.total() for c in forms) - family.chance < 0.04, name
        assert best / sum(c.total() for c in forms) > family.chance - 0.02
        assert family.chance >= 1 / len(family.answers) - 0.01


def test_choices_differ_and_hold_the_answer(turns) -> None:
    for turn in turns:
        if FAMILIES[turn.source].choice:
            options = [part.split(": ")[1] for part in turn.question.split("? ")[1].split(", ")]
            assert len(set(options)) == 4


def test_the_vocabulary_is_closed_and_answers_are_single_tokens(turns) -> None:
    tokenizer = build_tokenizer()
    unknown = tokenizer.get_vocab()[UNKNOWN]
    for turn in turns[::7]:
        assert unknown not in tokenizer(turn.question)["input_ids"]
        answer = tokenizer(turn.answer)["input_ids"]
        assert len(answer) == 1
        assert answer != [unknown]


def test_questions_are_made_fast() -> None:
    glyphs()
    begun = time.perf_counter()
    made = sum(len(sample.turns) for sample in load_split("train", 500))
    assert made / (time.perf_counter() - begun) > 4000  # about 60,000 on a quiet core


def test_the_digits_are_one_of_the_splits() -> None:
    splits = splits_of(None)
    assert {name: splits.size(name) for name in SPLIT_NAMES} == SPLITS
    assert splits.open("search", 5).identity == load_split("search", 5).identity
    assert len(splits.open("report")) == SPLITS["report"]
    assert splits.identity == splits_of(None).identity
    with pytest.raises(AutoPruneError, match="did you mean 'search'"):
        splits.size("serach")
