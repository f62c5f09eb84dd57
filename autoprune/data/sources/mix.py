"""Which rows make up the data, and which split each is in: disjoint by image, seeded by content.

Rows that share an image, directly or through others, stay together. What is held out is a tenth of
the rows at most, and no more than the splits of the embedded data have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.data.sources.scan import Source
from autoprune.data.splits import SourceSpec
from autoprune.errors import AutoPruneError

HELD_OUT = {
    "search": (384, 0.1),
    "confirm": (512, 0.1),
    "calibration": (256, 0.05),
    "report": (1024, 0.05),
}
"""Rows of each split that recovery never sees: most of them, and the largest share of all rows."""


def scattered(numbers: np.ndarray) -> np.ndarray:
    """Return a place in [0, 1) for each number, ``float64``: far apart even for neighbours.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
    """
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    places: np.ndarray = (z >> np.uint64(11)).astype(np.float64) / 2.0**53
    return places


def chosen_rows(
    sources: Sequence[Source], specs: Sequence[SourceSpec]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the mix: source and row of each, ``int64 [n]``.

    With weights the mix is as large as it can be without repeating a row; a source without one
    weighs 1. Without weights it is all rows.
    """
    sizes = np.array([len(source.index) for source in sources])
    taken = sizes
    if any(spec.weight is not None for spec in specs):
        weights = np.array([1.0 if spec.weight is None else spec.weight for spec in specs])
        whole = float((sizes / weights).min())
        taken = np.minimum(sizes, np.maximum(1, np.round(whole * weights))).astype(np.int64)
    of, rows = [], []
    for number, (source, count) in enumerate(zip(sources, taken.tolist(), strict=True)):
        index = source.index
        order = np.lexsort((np.arange(len(index)), scattered(index.texts)))
        rows.append(np.sort(order[:count]))
        of.append(np.full(count, number))
    return np.concatenate(of), np.concatenate(rows)


def families(sources: Sequence[Source], of: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return for each row the number of its family: rows that share an image or a text.

    The number is that of the family's least image or text, so that it depends on content alone.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    numbers, owners = [], []
    for place, (number, row) in enumerate(zip(of.tolist(), rows.tolist(), strict=True)):
        index = sources[number].index
        begin, end = index.offsets[row : row + 2]
        own = index.images[begin:end] if end > begin else index.texts[row : row + 1]
        numbers.append(own)
        owners.append(np.full(len(own), place))
    flat, owner = np.concatenate(numbers), np.concatenate(owners)
    known, item = np.unique(flat, return_inverse=True)
    total = len(of)
    shape = (total + len(known), total + len(known))
    edges = coo_matrix((np.ones(len(owner), dtype=np.int8), (owner, total + item)), shape=shape)
    _, labels = connected_components(edges, directed=False)
    least = np.full(int(labels.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, labels[total:], known)
    found: np.ndarray = least[labels[:total]]
    return found


def assigned(of: np.ndarray, family: np.ndarray, called: str = "data") -> dict[str, np.ndarray]:
    """Return the places of each split's rows, families kept together, each source in its share.

    Args:
        of: ``int64 [n]``: the source of each row.
        family: ``int64 [n]``: what each row is about.
        called: what the rows are called in a message.

    Raises:
        AutoPruneError: there is not one family for each split.
    """
    splits: dict[str, list[int]] = {name: [] for name in ("train", *HELD_OUT)}
    total = len(of)
    by_family: dict[int, list[int]] = {}
    for place, number in enumerate(family.tolist()):
        by_family.setdefault(number, []).append(place)
    numbers = np.array(sorted(by_family))
    order = numbers[np.argsort(scattered(numbers), kind="stable")].tolist()
    counts = np.bincount(of)
    left = {
        (name, source): max(1, round(min(share, most / total) * int(count)))
        for name, (most, share) in HELD_OUT.items()
        for source, count in enumerate(counts)
    }
    for number in order:
        places = by_family[number]
        source = int(of[places[0]])
        name = next(
            (n for n in HELD_OUT if len(places) <= max(1, left[n, source]) and left[n, source] > 0),
            "train",
        )
        if name != "train":
            left[name, source] -= len(places)
        splits[name].extend(places)
    empty = [name for name, places in splits.items() if not places]
    if empty:
        raise AutoPruneError(
            f"{called}: {total:,} rows about {len(order):,} different images or texts are too few "
            f"to hold some out (nothing is left for {', '.join(empty)}): give more"
        )
    return {name: np.sort(np.array(places)) for name, places in splits.items()}
