"""Tables of an experiment, written into its README between two marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MARKS = ("<!-- tables -->", "<!-- end of tables -->")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table; a column is there if any row has it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def into(readme: Path, text: str) -> None:
    """Write the tables into the README, between their marks.

    Raises:
        ValueError: if the marks are not there.
    """
    page = readme.read_text()
    head, first, rest = page.partition(MARKS[0])
    _, second, tail = rest.partition(MARKS[1])
    if not (first and second):
        raise ValueError(f"{readme} has no {MARKS[0]} … {MARKS[1]}")
    readme.write_text(f"{head}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{tail}")
