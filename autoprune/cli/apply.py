"""``autoprune apply``: one point of a front as a checkpoint; ``export --format hf`` by its name."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.options import Gpus, Home, Output, Rebuild, example

EXAMPLE = example(
    "autoprune apply demo:7 -o smaller-model",
    "autoprune apply demo:7 -o rebuilt --rebuild",
)


def apply(
    source: Annotated[
        str,
        typer.Argument(
            help="A trial of a search, as NAME:TRIAL; with --rebuild also a checkpoint directory.",
            metavar="NAME:TRIAL",
        ),
    ],
    output: Output,
    rebuild: Rebuild = False,
    gpus: Gpus = 0.0,
    home: Home = None,
) -> None:
    """Write a candidate as a checkpoint, and prove that it reloads before saying done.

    The directory loads with stock transformers. Its card says how, what was cut, how it was
    trained, how it scores and how to make it again. The same as 'autoprune export --format hf'.
    """
    from autoprune.cli.export import print_exported, run_export
    from autoprune.cli.output import console

    exported = run_export(source, output, "hf", rebuild=rebuild, gpus=gpus, home=home)
    print_exported(exported, console())
