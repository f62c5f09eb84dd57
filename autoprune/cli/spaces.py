"""``autoprune spaces``: the knob spaces that a search can sample from."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from autoprune.cli.options import example
from autoprune.errors import AutoPruneError

EXAMPLE = example(
    "autoprune spaces",
    "autoprune spaces hybrid",
    "autoprune spaces hybrid --yaml > mine.yaml",
    "autoprune search --space mine.yaml",
)


def spaces(
    name: Annotated[
        str | None,
        typer.Argument(help="Show one space in full: its name, or a YAML file.", metavar="[NAME]"),
    ] = None,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the file of the space, to save and change.")
    ] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page of the docs instead.")
    ] = False,
) -> None:
    """List the knob spaces, or show one with its knobs.

    Save one to a file of your own, change it, and give the file to `search --space`.
    """
    from rich.table import Table

    from autoprune.cli.output import console
    from autoprune.search.knobs.space import list_spaces, load_space, space_text
    from autoprune.search.knobs.table import KNOBS

    if as_yaml:
        if name is None:
            raise AutoPruneError("--yaml prints one space: name it, 'autoprune spaces NAME --yaml'")
        sys.stdout.write(space_text(name))
        return
    if as_markdown:
        from autoprune.search.knobs.reference import markdown

        typer.echo(markdown(), nl=False)
        return
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
    out.print(f"rungs (shares of the recovery): {', '.join(f'{r:g}' for r in space.rungs)}")
    table = Table(box=None, pad_edge=False)
    for title in ("knob", "values", "what it is"):
        table.add_column(title, no_wrap=title == "knob")
    for knob, domain in space.knobs.items():
        table.add_row(knob, domain.describe(), KNOBS[knob].meaning)
    out.print(table)
    out.print(
        f"\n'autoprune spaces {name} --yaml > mine.yaml' saves it; a changed copy goes to --space",
        soft_wrap=True,
    )
