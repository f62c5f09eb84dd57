"""``autoprune register``: an exported checkpoint as a version of a model in MLflow's registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.options import Home, Json, TrackingUri, example, home_dir

if TYPE_CHECKING:
    from rich.console import Console

    from autoprune.tracking.registry import Registered

EXAMPLE = example(
    "autoprune register smaller-model --name my-vlm",
    "autoprune register smaller-model --name my-vlm --alias challenger",
)


def register(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="A checkpoint directory that export wrote.", metavar="CHECKPOINT"),
    ],
    name: Annotated[str, typer.Option(help="Name of the registered model.", metavar="NAME")],
    alias: Annotated[
        str, typer.Option(help="Alias that points to this version from now on.", metavar="ALIAS")
    ] = "champion",
    tracking_uri: TrackingUri = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Put a checkpoint into MLflow's model registry; models:/NAME@ALIAS then loads it.

    MLflow keeps a copy of the files. The same checkpoint is never registered twice under a name.
    """
    from autoprune.cli.output import console, json_stdout, print_json
    from autoprune.tracking import registry
    from autoprune.tracking.location import default_uri

    place = home_dir(home)
    uri = tracking_uri or default_uri(place)
    out = console(as_json)
    with json_stdout(as_json):
        made = registry.register(
            uri,
            checkpoint,
            name,
            alias=alias,
            home=place,
            on_stage=lambda text: out.print(text, style="dim"),
        )
    if as_json:
        print_json(made.to_dict())
    else:
        print_registered(made, uri, out)


def print_registered(made: Registered, uri: str, out: Console) -> None:
    """Print what was registered, what was copied, and how it is loaded."""
    from autoprune.cli.output import size_on_disk
    from autoprune.tracking.location import hidden_password

    def say(text: str) -> None:
        out.print(text, soft_wrap=True, markup=False, highlight=False)

    if made.existed:
        say(
            f"{made.name} has this very content already: version {made.version}, which has alias "
            f"{made.alias} now; nothing was copied"
        )
    else:
        copied = (
            f"{size_on_disk(made.copied)} were copied into MLflow's store"
            if made.copied
            else "it shares the files of a model that is there already, and nothing was copied"
        )
        say(f"done: {made.name} version {made.version}, alias {made.alias}; {copied}")
    if made.moved_from is not None:
        say(f"alias {made.alias} pointed to version {made.moved_from} before")
    if not made.linked:
        say("the run of its trial is not in this store: it hangs on a run of its own")
    say(
        f"next:\n  MLFLOW_TRACKING_URI={hidden_password(uri)} mlflow artifacts download "
        f"-u {made.uri} -d DIR"
    )
