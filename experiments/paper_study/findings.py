"""The study's findings as differences that can be tested on the grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from experiments.paper_study.grid import DATA, NONE, RECOVERIES, SIZES, STUDY_AXES, VARIANTS
from experiments.paper_study.scores import Config, Scores, Weighted, complete, mean_of, seeds_of

ONCE, EQUAL = VARIANTS
POINT = 0.01
"""A difference of one point, the margin of "at least as good"."""
BEST = "SFT + L2"
"""The recovery that the study recommends beyond 15 %."""
ALL_DATA = f"{BEST}, 100 % of data"
TRAINED = tuple(RECOVERIES)[1:]


@dataclass(frozen=True)
class Finding:
    """A statement of the study as ``left`` minus ``right``, in retention.

    Attributes:
        name: the finding's number and where it is tested.
        text: what would hold if the difference is above ``-margin``.
        left: a weighted sum of configurations.
        right: another.
        margin: 0 for "better", a point for "at least as good".
        dense: multiple of the dense model's retention, 1, that is added to ``right``.
    """

    name: str
    text: str
    left: Weighted
    right: Weighted
    margin: float = 0.0
    dense: float = 0.0

    @property
    def group(self) -> str:
        """The finding's number."""
        return self.name.split()[0]


def findings(scores: Scores) -> tuple[list[Finding], list[str]]:
    """Return the findings that the rows can carry, and the names of those that they cannot."""
    there, missing = [], []
    for finding in _all(scores):
        parts = [config for _, config in (*finding.left, *finding.right)]
        if parts and all(complete(scores, config) for config in parts) and seeds_of(scores, parts):
            there.append(finding)
        else:
            missing.append(finding.name)
    return there, missing


def _all(scores: Scores) -> Iterator[Finding]:
    yield from _without_recovery()
    yield from _axes_with_recovery(scores)
    yield from _uniform_with_recovery(scores)
    yield from _projector_alone()
    yield from _best_recovery(scores)
    yield from _data()
    yield from _tipping_point()
    yield from _equal_updates()


def percent(share: float) -> str:
    """Return a share as text."""
    return f"{share:.0%}".replace("%", " %")


def _at(axis: str, size: float, recovery: str, data: float, variant: str = ONCE) -> Config:
    return Config(axis, size, recovery, data, variant)


def _both(size: float, recovery: str, data: float, variant: str = ONCE) -> list[Config]:
    return [_at(axis, size, recovery, data, variant) for axis in STUDY_AXES]


def _without_recovery() -> Iterator[Finding]:
    for size in SIZES:
        width, depth = (_at(axis, size, NONE, 0.0) for axis in ("width", "depth"))
        yield Finding(
            f"1 width over depth, no recovery, {percent(size)}",
            "without recovery width (window) keeps more than depth",
            mean_of([width]),
            mean_of([depth]),
        )
    for size in SIZES[:-1]:
        uniform, depth = (_at(axis, size, NONE, 0.0) for axis in ("uniform", "depth"))
        yield Finding(
            f"1 uniform width over depth, no recovery, {percent(size)}",
            "without recovery width (all layers) keeps more than depth",
            mean_of([uniform]),
            mean_of([depth]),
        )


def _axes_with_recovery(scores: Scores) -> Iterator[Finding]:
    for size in SIZES:
        better, worse = ("depth", "width") if size <= 0.30 else ("width", "depth")
        pairs = [
            (_at(better, size, recovery, data), _at(worse, size, recovery, data))
            for recovery in TRAINED
            for data in DATA
        ]
        pairs = most_seeds(scores, pairs)
        yield Finding(
            f"2 {better} over {worse}, {percent(size)}, all recoveries",
            f"with recovery {better} keeps more than {worse}, mean of all recoveries and data",
            mean_of([left for left, _ in pairs]) if pairs else [],
            mean_of([right for _, right in pairs]) if pairs else [],
        )
        yield Finding(
            f"2 {better} over {worse}, {percent(size)}, {ALL_DATA}",
            f"with recovery {better} keeps more than {worse}, recommended recovery",
            mean_of([_at(better, size, BEST, 1.0)]),
            mean_of([_at(worse, size, BEST, 1.0)]),
        )


def _uniform_with_recovery(scores: Scores) -> Iterator[Finding]:
    def pair(size: float, recovery: str, data: float) -> Pair:
        return _at("uniform", size, recovery, data), _at("depth", size, recovery, data)

    for size in SIZES[:-1]:
        every = most_seeds(scores, [pair(size, r, data) for r in TRAINED for data in DATA])
        for pairs, what in ((every, "all recoveries"), ([pair(size, BEST, 1.0)], ALL_DATA)):
            yield Finding(
                f"2 uniform width over depth, {percent(size)}, {what}",
                f"with recovery width (all layers) keeps more than depth, {what}",
                mean_of([left for left, _ in pairs]) if pairs else [],
                mean_of([right for _, right in pairs]) if pairs else [],
            )


def _projector_alone() -> Iterator[Finding]:
    for axis in STUDY_AXES:
        for other in ("SFT", BEST):
            yield Finding(
                f"3 projector SFT as good as {other}, 15 %, {axis}",
                f"at 15 % the projector alone is no worse than {other} by a point, mean of data",
                mean_of([_at(axis, 0.15, "projector SFT", data) for data in DATA]),
                mean_of([_at(axis, 0.15, other, data) for data in DATA]),
                POINT,
            )


def _rivals(scores: Scores, recovery: str, other: str, sizes: tuple[float, ...]) -> Finding:
    pairs = [
        (_at(axis, size, recovery, data), _at(axis, size, other, data))
        for size in sizes
        for axis in STUDY_AXES
        for data in DATA
    ]
    # By data fraction: what is there for some sizes only would weigh sizes unequally.
    by_data = {data: [pair for pair in pairs if pair[0].data == data] for data in DATA}
    seeds = {data: _seeds(scores, of) for data, of in by_data.items()}
    whole = [data for data in DATA if seeds[data] == max(seeds.values())]
    pairs = [pair for data in whole for pair in by_data[data]]
    used = ", ".join(percent(data) for data in whole)
    span = "beyond 15 %" if sizes[0] > 0.15 else "at all sizes"
    return Finding(
        f"{recovery} over {other}, {span}",
        f"{recovery} keeps more than {other}, {span} (data {used})",
        mean_of([left for left, _ in pairs]) if pairs else [],
        mean_of([right for _, right in pairs]) if pairs else [],
    )


def _best_recovery(scores: Scores) -> Iterator[Finding]:
    beyond = SIZES[1:]
    for other in TRAINED:
        if other != BEST:
            yield _numbered("4", _rivals(scores, BEST, other, beyond))
    for alone in ("L2", "KL", "reverse KL"):
        yield _numbered("5", _rivals(scores, "SFT", alone, SIZES))
    for base in ("SFT", BEST):
        yield _numbered("6", _rivals(scores, f"{base} + reverse KL", base, SIZES))


Pair = tuple[Config, Config]


def most_seeds(scores: Scores, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs that have as many seeds as any: of a mean the rarest seed decides."""
    seeds = [_seeds(scores, [pair]) for pair in pairs]
    return [pair for pair, count in zip(pairs, seeds, strict=True) if count == max(seeds)]


def _seeds(scores: Scores, pairs: Sequence[Pair]) -> int:
    configs = [config for pair in pairs for config in pair]
    return len(seeds_of(scores, configs))


def _numbered(number: str, finding: Finding) -> Finding:
    return Finding(f"{number} {finding.name}", finding.text, finding.left, finding.right)


def _data() -> Iterator[Finding]:
    for size in SIZES:
        yield Finding(
            f"7 5 % of data keep 95 % of 100 %, {percent(size)}",
            "5 % of the data keep more than 95 % of what 100 % reach, SFT + L2, one pass",
            mean_of(_both(size, BEST, 0.05)),
            mean_of(_both(size, BEST, 1.0), 0.95),
        )
    yield Finding(
        "7 100 % over 20 % of data, 60 %",
        "beyond half all of the data is needed: 100 % keep more than 20 %, SFT + L2, one pass",
        mean_of(_both(0.60, BEST, 1.0)),
        mean_of(_both(0.60, BEST, 0.2)),
    )


def _tipping_point() -> Iterator[Finding]:
    def full(size: float) -> list[Config]:
        return _both(size, BEST, 1.0)

    def bare(size: float) -> list[Config]:
        return _both(size, NONE, 0.0)

    for name, of in (("SFT + L2", full), ("no recovery", bare)):
        for low, middle, high in ((0.15, 0.30, 0.45), (0.30, 0.45, 0.60)):
            yield Finding(
                f"8 loss {middle:.0%} to {high:.0%} over {low:.0%} to {middle:.0%}, {name}".replace(
                    "%", " %"
                ),
                f"more is lost from {percent(middle)} to {percent(high)} than from "
                f"{percent(low)} to {percent(middle)}, {name}",
                mean_of(of(middle), 2.0),
                [*mean_of(of(low)), *mean_of(of(high))],
            )
    for axis in STUDY_AXES:
        yield Finding(
            f"8 30 % is safe (95 % kept), {axis}",
            f"at 30 % {axis} keeps at least 95 % of the dense model, SFT + L2, 100 %",
            mean_of([_at(axis, 0.30, BEST, 1.0)]),
            [],
            dense=0.95,
        )


def _equal_updates() -> Iterator[Finding]:
    for size in SIZES:
        yield Finding(
            f"9 5 % as good as 40 % of data, equal updates, {percent(size)}",
            "with equal updates 5 % of the data are no worse than 40 % by a point, SFT + L2",
            mean_of(_both(size, BEST, 0.05, EQUAL)),
            mean_of(_both(size, BEST, 1.0, EQUAL)),
            POINT,
        )

    def everywhere(data: float, variant: str) -> list[Config]:
        return [config for size in SIZES for config in _both(size, BEST, data, variant)]

    yield Finding(
        "9 gain from 8 x updates over gain from 8 x data",
        "on 5 % of the data 8 times the updates gain more than, at those updates, 8 times the "
        "data, SFT + L2, mean of sizes and axes",
        mean_of(everywhere(0.05, EQUAL), 2.0),
        [*mean_of(everywhere(0.05, ONCE)), *mean_of(everywhere(1.0, EQUAL))],
    )
