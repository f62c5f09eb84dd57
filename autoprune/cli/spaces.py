"""``autoprune spaces``: the knob spaces that a search can sample from."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.options import example

EXAMPLE = example("autoprune spaces", "autoprune spaces hybrid")


def spaces(
    name: Annotated[
        str | None,
        typer.Argument(help="Show one space in full: its name, or a YAML file.", metavar="[NAME]"),
    ] = None,
) -> None:
    """List the knob spaces, or show one with its knobs.

    Copy one into a file of your own, change it, and give the file to `search --space`.
    """
    from rich.table import Table

    from autoprune.cli.output import console
    from autoprune.search.space import KNOBS, list_spaces, load_space

    out = console()
    if name is None:
        table = Table(box=None, pad_edge=False)
        for title in ("space", "what it searches", "knobs"):
            table.add_column(title, no_wrap=title == "space")
        for known in list_spaces():
            space = load_space(known)
            table.add_row(
                known,
                space.description,
                ", ".join(k for k, d in space.knobs.items() if len(d.values()) > 1),
            )
        out.print(table)
        out.print("\nautoprune spaces NAME shows one in full")
        return
    space = load_space(name)
    out.print(f"{space.name}: {space.description}")
    path = list_spaces().get(name)
    out.print(f"rungs (shares of the recovery): {', '.join(f'{r:g}' for r in space.rungs)}")
    table = Table(box=None, pad_edge=False)
    for title in ("knob", "values", "what it is"):
        table.add_column(title, no_wrap=title == "knob")
    for knob, domain in space.knobs.items():
        table.add_row(knob, domain.describe(), KNOBS[knob].meaning)
    out.print(table)
    if path is not None:
        out.print(f"file: {path} (a changed copy goes to --space)", soft_wrap=True)
