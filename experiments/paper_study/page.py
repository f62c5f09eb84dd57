"""The page of the study: its statements with verdicts, and retention in tables."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.paper_study.findings import BEST, TRAINED, percent
from experiments.paper_study.grid import (
    CUTS,
    DATA,
    EQUAL_PASSES,
    NONE,
    RECOVERIES,
    SEEDS,
    SIZES,
    STUDY_AXES,
    VARIANTS,
)

Table = Sequence[Mapping[str, Any]]

VERDICTS = ("holds", "does not hold", "undecided")

TITLES = {
    VARIANTS[0]: "One pass over {} of the data",
    VARIANTS[1]: f"Equal updates ({EQUAL_PASSES} passes) on {{}} of the data",
}


@dataclass(frozen=True)
class Statement:
    """One line of the study.

    Attributes:
        text: what it says.
        minus: the difference that stands in the table.
        tested: names of the findings that test it, and where each does.
    """

    text: str
    minus: str
    tested: tuple[tuple[str, str], ...]


def _sizes(name: str, sizes: Sequence[float], label: str = "") -> tuple[tuple[str, str], ...]:
    return tuple((name.format(percent(s)), f"{label}{percent(s)}") for s in sizes)


STATEMENTS = (
    Statement(
        "1. Without recovery width keeps more than depth",
        "width − depth",
        (
            *_sizes("1 width over depth, no recovery, {}", SIZES, "window at "),
            *_sizes("1 uniform width over depth, no recovery, {}", SIZES[:-1], "uniform at "),
        ),
    ),
    Statement(
        "2a. With recovery: depth up to 30 %",
        "depth − width",
        (
            *_sizes("2 depth over width, {}, all recoveries", SIZES[:2], "all recoveries at "),
            *_sizes("2 depth over width, {}, SFT + L2, 100 % of data", SIZES[:2], "SFT + L2 at "),
        ),
    ),
    Statement(
        "2b. With recovery: width from 45 %",
        "width − depth",
        (
            *_sizes("2 width over depth, {}, all recoveries", SIZES[2:], "all recoveries at "),
            *_sizes("2 width over depth, {}, SFT + L2, 100 % of data", SIZES[2:], "SFT + L2 at "),
        ),
    ),
    Statement(
        "2c. (Asked here, when the rows were known.) The same of uniform widths",
        "uniform − depth",
        (
            *_sizes(
                "2 uniform width over depth, {}, all recoveries", SIZES[:3], "all recoveries at "
            ),
            *_sizes(
                "2 uniform width over depth, {}, SFT + L2, 100 % of data", SIZES[:3], "SFT + L2 at "
            ),
        ),
    ),
    Statement(
        "3. Up to 15 % the projector alone is enough (no worse by a point)",
        "projector − other",
        tuple(
            (f"3 projector SFT as good as {other}, 15 %, {axis}", f"{axis} against {other}")
            for axis in STUDY_AXES
            for other in ("SFT", BEST)
        ),
    ),
    Statement(
        "4. Beyond 15 % SFT + L2 recovers best",
        "SFT + L2 − other",
        tuple((f"4 {BEST} over {other}, beyond 15 %", other) for other in TRAINED if other != BEST),
    ),
    Statement(
        "5. (Asked here.) SFT keeps more than distillation alone",
        "SFT − other",
        tuple((f"5 SFT over {alone}, at all sizes", alone) for alone in ("L2", "KL", "reverse KL")),
    ),
    Statement(
        "6. Reverse KL adds",
        "with − without",
        tuple(
            (f"6 {base} + reverse KL over {base}, at all sizes", f"to {base}")
            for base in ("SFT", BEST)
        ),
    ),
    Statement(
        "7a. 5 % of the data keep over 95 % of what 100 % reach (one pass)",
        "R(5 %) − 0.95 R(100 %)",
        _sizes("7 5 % of data keep 95 % of 100 %, {}", SIZES),
    ),
    Statement(
        "7b. Beyond half all of the data are needed",
        "R(100 %) − R(20 %)",
        (("7 100 % over 20 % of data, 60 %", "60 %"),),
    ),
    Statement(
        "8a. 30 % is safe (95 % kept)",
        "R − 95 %",
        tuple((f"8 30 % is safe (95 % kept), {axis}", axis) for axis in STUDY_AXES),
    ),
    Statement(
        "8b. 45 % is the tipping point: more is lost on the way there than before",
        "loss of 30 to 45 % − of 15 to 30 %",
        tuple(
            (f"8 loss 30 % to 45 % over 15 % to 30 %, {of}", of)
            for of in ("SFT + L2", "no recovery")
        ),
    ),
    Statement(
        "8c. (Asked here.) Still more is lost after it",
        "loss of 45 to 60 % − of 30 to 45 %",
        tuple(
            (f"8 loss 45 % to 60 % over 30 % to 45 %, {of}", of)
            for of in ("SFT + L2", "no recovery")
        ),
    ),
    Statement(
        "9a. (Asked here.) At equal updates 5 % of the data are no worse than 40 % by a point",
        "R(5 %) − R(40 %)",
        _sizes("9 5 % as good as 40 % of data, equal updates, {}", SIZES),
    ),
    Statement(
        "9b. (Asked here.) On 5 % of the data 8 times the updates gain more than then 8 times "
        "the data",
        "gain − gain",
        (("9 gain from 8 x updates over gain from 8 x data", "all sizes"),),
    ),
)


def page(table: Table, verdicts: Table, best: Mapping[str, Mapping[str, Any]]) -> str:
    """Return all tables of the README as Markdown."""
    sizes = [size_table(table, v, data) for v, data in itertools.product(VARIANTS, DATA)]
    note = f"± is half of the 95 % interval; {len(SEEDS)} seeds, or as many as stand in brackets."
    return "\n\n".join(
        (
            statements_table(verdicts),
            "![Differences and verdicts](findings.png)",
            f"Retention in %. {note}",
            *filter(None, sizes),
            "![Retention by size](retention.png)",
            "The recommended recovery by data:",
            recommended_table(table),
            "![What data are worth](data.png)",
            "The best points of the grid, chosen on the `report` split:",
            best_table(best),
        )
    )


def statements_table(verdicts: Table) -> str:
    """Return the study's statements with their verdicts, in points, as Markdown."""
    found = {row["finding"]: row for row in verdicts}
    lines = ["| the study | here | differences, points (95 %) |", "|---|---|---|"]
    for statement in STATEMENTS:
        rows = [(found[name], where) for name, where in statement.tested if name in found]
        said = "; ".join(f"{where} {_difference(row)}" for row, where in rows)
        lines.append(f"| {statement.text} | {_verdict(rows)} | *{statement.minus}:* {said} |")
    return "\n".join(lines)


def _verdict(rows: Sequence[tuple[Mapping[str, Any], str]]) -> str:
    by_verdict = {v: [where for row, where in rows if row["verdict"] == v] for v in VERDICTS}
    there = {v: where for v, where in by_verdict.items() if where}
    if len(there) == 1:
        return f"**{next(iter(there))}**"
    return "; ".join(f"**{v}**: {', '.join(where)}" for v, where in there.items()) or "not measured"


def _difference(row: Mapping[str, Any]) -> str:
    mean, low, high = (100 * float(row[name]) for name in ("difference", "low", "high"))
    return f"{mean:+.1f} ({low:+.1f} … {high:+.1f})"


def size_table(table: Table, variant: str, data: float) -> str:
    """Return retention by recovery, axis and size as Markdown, in percent; "" without rows."""
    rows = [r for r in table if r["variant"] == variant and r["data"] in (0.0, data)]
    cells = {(r["recovery"], r["axis"], r["size"]): _interval(r) for r in rows}
    places = [(axis, size) for axis in CUTS for size in SIZES]
    there = {r["recovery"] for r in rows if r["data"] == data}
    if not there:
        return ""
    places = [p for p in places if any((recovery, *p) in cells for recovery in RECOVERIES)]
    unique = next(r["unique"] for r in rows if r["data"] == data)
    lines = [
        f"{TITLES[variant].format(percent(unique))}:",
        "",
        f"| recovery | {' | '.join(f'{axis} {percent(size)}' for axis, size in places)} |",
        "|---" * (len(places) + 1) + "|",
    ]
    for recovery in RECOVERIES:
        if recovery in there or (recovery == NONE and variant == VARIANTS[0]):
            shown = " | ".join(cells.get((recovery, *place), "–") for place in places)
            lines.append(f"| {recovery} | {shown} |")
    return "\n".join(lines)


def recommended_table(table: Table) -> str:
    """Return retention of the recommended recovery by data and variant as Markdown, in percent."""
    lines = [
        f"| SFT + L2 | {' | '.join(f'{percent(size)} removed' for size in SIZES)} |",
        "|---" * (len(SIZES) + 1) + "|",
    ]
    for axis, variant, data in itertools.product(STUDY_AXES, VARIANTS, DATA):
        found = {
            r["size"]: r
            for r in table
            if (r["axis"], r["variant"], r["data"]) == (axis, variant, data)
            and r["recovery"] == BEST
        }
        if found:
            first = next(iter(found.values()))
            name = f"{axis}, {variant}: {percent(first['unique'])}, {first['passes']:,} passes"
            shown = [_interval(found[size]) if size in found else "–" for size in SIZES]
            lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def best_table(best: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the grid's best points as Markdown."""
    lines = [
        "| removed | among | axis, recovery, unique data, passes | retention in % (95 %), seeds |",
        "|---|---|---|---|",
    ]
    for name, row in best.items():
        among = name.split(" ", 1)[1].replace("any", "all")
        mean, low, high = (100 * row[key] for key in ("retention", "low", "high"))
        what = f"{row['axis']}, {row['recovery']}, {percent(row['unique'])}, {row['passes']:,}"
        lines.append(
            f"| {percent(row['size'])} | {among} | {what} | "
            f"{mean:.1f} ({low:.1f}–{high:.1f}), {row['seeds']} |"
        )
    return "\n".join(lines)


def _interval(row: Mapping[str, Any]) -> str:
    """Return retention with half its interval, in percent, and the seeds where some are missing."""
    half = (row["high"] - row["low"]) / 2
    whole = row["recovery"] == NONE or row["seeds"] == len(SEEDS)
    seeds = "" if whole else f" ({row['seeds']})"
    return f"{100 * row['retention']:.1f} ± {100 * half:.1f}{seeds}"
