"""The page of the docs that says what every knob is, and what each space samples of it."""

from __future__ import annotations

from autoprune.search.knobs.space import list_spaces, load_space
from autoprune.search.knobs.table import GROUPS, KNOBS, RATIOS, Knob

_HEAD = """# Knobs and spaces

Written by `make docs` from the code; `autoprune spaces` shows the same in a terminal.

A *knob* is one choice that a trial makes. A *space* is a file that says which knobs a search
samples, and from what; of those it leaves out, each trial has the default. Print one with
`autoprune spaces hybrid --yaml`, change it, and give the file to `autoprune search --space`. A knob
takes a range (`{low: 0, high: 1}`, with `step`, `log` or `integer`), a list of choices, or one
value.
"""


def markdown() -> str:
    """Return the page, in Markdown."""
    spaces = [load_space(name) for name in list_spaces()]
    lines = [_HEAD, "## Knobs", "", "| knob | what it is | default | may be |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | {knob.meaning} | {_shown(knob)} | {_legal(knob)} |"
        for name, knob in KNOBS.items()
        if name not in RATIOS
    ]
    lines += [
        f"| `{RATIOS[0]}` … `{RATIOS[-1]}` | keep ratios of up to {GROUPS} runs of layers, first "
        f"to last, beside each other | – | {_legal(KNOBS[RATIOS[0]])} |",
        "",
        "Packages may add criteria and losses by entry point; their names are legal, too "
        "([python.md](python.md)).",
        "",
        "## Spaces",
    ]
    for space in spaces:
        rungs = ", ".join(f"{100 * share:g} %" for share in space.rungs)
        lines += [
            "",
            f"### {space.name}",
            "",
            f"{space.description[:1].upper()}{space.description[1:]}. Trials are compared after "
            f"{rungs} of their recovery.",
            "",
            "| knob | values |",
            "|---|---|",
            *(
                f"| `{name}` | {domain.describe().replace('|', 'or')} |"
                for name, domain in space.knobs.items()
            ),
        ]
    return "\n".join(lines) + "\n"


def _shown(knob: Knob) -> str:
    if knob.default is None:
        return "–"
    return str(knob.default).lower() if isinstance(knob.default, bool) else f"{knob.default}"


def _legal(knob: Knob) -> str:
    if knob.names:
        return ", ".join(str(n).lower() if isinstance(n, bool) else f"{n}" for n in knob.names)
    whole = "whole numbers " if knob.integer else ""
    return f"{whole}{knob.low:g} to {knob.high:g}"
