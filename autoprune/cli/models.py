"""``autoprune models``: which models can be cut, and how what comes out loads."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.options import example

EXAMPLE = example("autoprune models")


def models(
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page of the docs instead.")
    ] = False,
) -> None:
    """List the models that can be cut, and which cuts load with plain transformers.

    "stock" loads with plain from_pretrained, "any" with trust_remote_code=True.
    """
    from autoprune.models.axes import markdown, rows

    if as_markdown:
        typer.echo(markdown(), nl=False)
        return
    from rich.table import Table

    from autoprune.cli.output import console

    heading, *body = rows()
    table = Table(box=None, pad_edge=False)
    for title in heading:
        table.add_column(title)
    for row in body:
        table.add_row(*row)
    console().print(table)
