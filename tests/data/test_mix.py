"""Sources with weights, and splits of them: disjoint by image, seeded, stratified and nested."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from support.user_data import llava, pictures_of, png, rows, said, write_json

from autoprune.data.fractions import nested_fraction
from autoprune.data.sources.mix import HELD_OUT
from autoprune.data.sources.user import UserSplits, open_data, read_data
from autoprune.errors import AutoPruneError


def two(folder: Path, first: str = "", second: str = "") -> UserSplits:
    pictures_of(rows(400), folder / "images")
    a = write_json(rows(300), folder / "a.json")
    b = write_json(rows(100, 300), folder / "b.json")
    return open_data(read_data([f"{a}{first}", f"{b}{second}"], folder / "images"))


MIXES = [
    ("", "", (300, 100)),
    ("=1", "=1", (100, 100)),
    ("=2", "", (200, 100)),
    ("=1", "=2", (50, 100)),
    ("=30", "=1", (300, 10)),
    ("=0.5", "=0.1", (300, 60)),
]


@pytest.mark.parametrize(("first", "second", "counts"), MIXES)
def test_weights_are_shares_of_the_largest_mix(
    first: str, second: str, counts: tuple[int, int], tmp_path: Path
) -> None:
    splits = two(tmp_path, first, second)
    assert np.bincount(splits.of).tolist() == list(counts)
    pairs = list(zip(splits.of.tolist(), splits.rows.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert sum(map(len, splits.places.values())) == len(pairs)


def test_splits_share_no_image_and_hold_their_share_of_each_source(tmp_path: Path) -> None:
    splits = two(tmp_path)
    seen: dict[str, set[bytes]] = {}
    for name in splits.places:
        samples = splits.open(name)
        seen[name] = {np.asarray(i).tobytes() for sample in samples for i in sample.images}
        if name in HELD_OUT:
            share = HELD_OUT[name][1]
            for source, rows_there in enumerate((300, 100)):
                held = int((samples.strata == source).sum())
                assert abs(held - share * rows_there) <= 1
    for one, other in itertools.combinations(seen.values(), 2):
        assert one
        assert other
        assert not one & other
    asked = splits.open("search")[0]
    assert not asked.together
    assert len(asked.turns) == 1
    assert splits.open("search", 10**6).identity == splits.open("search").identity


def test_fractions_are_nested_and_fair_to_each_source(tmp_path: Path) -> None:
    samples = two(tmp_path).open("train")
    before: set[int] = set()
    for fraction in (0.05, 0.2, 0.6, 1.0):
        chosen = nested_fraction(samples.ring, samples.strata, fraction, seed=3)
        assert before <= set(chosen.tolist())
        before = set(chosen.tolist())
        shares = np.bincount(samples.strata[chosen], minlength=2)
        whole = np.bincount(samples.strata, minlength=2)
        assert (abs(shares - fraction * whole) <= 1).all()
    assert len(before) == len(samples)


def test_rows_that_share_an_image_stay_together(tmp_path: Path) -> None:
    """By content, whatever the files are called, and through others that link them."""
    data = []
    for number in range(60):
        pair = [f"{number}.png", f"copy-{number}.png"]
        for name in pair:
            (tmp_path / "images").mkdir(exist_ok=True)
            (tmp_path / "images" / name).write_bytes(png(number))
        for k, name in enumerate(pair):
            talk = said((f"<image>\nquestion {k} ?", "yes"))
            data.append({"id": f"{number}-{k}", "image": name, "conversations": talk})
    linked = said(("<image><image> same ?", "no"))
    data.append({"id": "link", "image": ["0.png", "1.png"], "conversations": linked})
    path = write_json(data, tmp_path / "mine.json")
    splits = open_data(read_data([str(path)], tmp_path / "images"))
    of_image: dict[int, set[str]] = {}
    for split, places in splits.places.items():
        for place in splits.rows[places].tolist():
            numbers = [0, 1] if place == 120 else [place // 2]
            for number in numbers:
                of_image.setdefault(number, set()).add(split)
    assert all(len(found) == 1 for found in of_image.values())
    assert of_image[0] == of_image[1]
    samples = splits.open("train")
    rings: dict[int, set[float]] = {}
    for place, ring in zip(samples.rows.tolist(), samples.ring.tolist(), strict=True):
        rings.setdefault(place // 2, set()).add(ring)
    assert all(len(found) == 1 for found in rings.values())
    assert len(set(samples.groups)) == len(rings) - (of_image[0] == {"train"}) * 2


def test_too_few_images_are_said(tmp_path: Path) -> None:
    data = [{"image": "0.png", "conversations": said(("how many ?", "3"))} for _ in range(50)]
    pictures_of(data, tmp_path / "images")
    path = write_json(data, tmp_path / "mine.json")
    with pytest.raises(AutoPruneError, match=r"50 rows about 1 different images .* too few"):
        read_data([str(path)], tmp_path / "images")


def test_a_source_may_have_anothers_name(tmp_path: Path) -> None:
    one, other = llava(tmp_path / "a"), tmp_path / "b" / "mine.json"
    write_json(rows(40, 100), other)
    pictures_of(rows(40, 100), tmp_path / "a" / "images")
    splits = open_data(read_data([str(one), str(other)], tmp_path / "a" / "images"))
    assert [source.name for source in splits.sources] == ["mine", "mine_2"]
    assert splits.name == "mine+mine_2"
