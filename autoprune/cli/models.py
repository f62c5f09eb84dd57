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

    The names are the model_type of a config.json, the text backbone's in its text_config.
    """
    from autoprune.models.axes import OWN_CODE, STOCK, by_axis, markdown, rows

    if as_markdown:
        typer.echo(markdown(), nl=False)
        return
    from rich.table import Table

    from autoprune.cli.output import console

    out = console()
    known = Table("text backbone", "in", box=None, pad_edge=False)
    for text, wrappers, *_ in rows()[1:]:
        known.add_row(text, wrappers)
    out.print(known)
    cuts = Table("what is cut", "how the checkpoint loads", box=None, pad_edge=False)
    for title, groups in by_axis():
        (usual, _), *others = groups
        cuts.add_row(title, usual)
        for loads, families in others:
            cuts.add_row("", f"{', '.join(families)}: {loads}")
    out.print()
    out.print(cuts)
    out.print(
        f"\n{STOCK}: with plain from_pretrained ('autoprune search --deployable stock' keeps to it)"
        f"\n{OWN_CODE}: with trust_remote_code=True",
        soft_wrap=True,
    )
