"""``autoprune export``: one point of a front in a format that runs elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.options import Gpus, Home, Json, Output, Rebuild, TrackingUri, example, home_dir
from autoprune.deploy.formats.table import HOLDS

if TYPE_CHECKING:
    from rich.console import Console

    from autoprune.deploy.apply import Difference
    from autoprune.deploy.export import Exported

EXAMPLE = example(
    "autoprune export demo:7 -o smaller-model",
    "autoprune export demo:7 -o smaller-model --register my-vlm",
    "autoprune export demo:7 --format onnx -o smaller-onnx",
    "autoprune export smaller-model --format gguf -o smaller-gguf",
)


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A trial of a search, as NAME:TRIAL, or a checkpoint directory that apply wrote.",
            metavar="NAME:TRIAL",
        ),
    ],
    output: Output,
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help="; ".join(f"{name}: {what}" for name, what in HOLDS.items()) + ".",
            metavar="FORMAT",
        ),
    ] = "hf",
    rebuild: Rebuild = False,
    gpus: Gpus = 0.0,
    register: Annotated[
        str | None,
        typer.Option(
            help="Put the checkpoint into MLflow's model registry under this name as well, with "
            "alias champion.",
            metavar="NAME",
        ),
    ] = None,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Write a candidate in a format, and prove that it runs before saying done.

    Each format is proved in a fresh process against what the model itself says. Its card says how
    to load it, what was cut, how it was trained, how it scores and how to make it again.
    """
    from autoprune.cli.output import console, json_stdout, print_json

    with json_stdout(as_json):
        exported = run_export(
            source,
            output,
            format_name,
            rebuild=rebuild,
            gpus=gpus,
            home=home,
            register=register,
            tracking_uri=tracking_uri,
            as_json=as_json,
        )
    if as_json:
        print_json(exported.to_dict())
        return
    print_exported(exported, console())
    if exported.registered is not None:
        from autoprune.cli.register import print_registered
        from autoprune.tracking.location import default_uri

        uri = tracking_uri or default_uri(home_dir(home))
        print_registered(exported.registered, uri, console())


def run_export(
    source: str,
    output: Path,
    format_name: str,
    *,
    rebuild: bool,
    gpus: float,
    home: Path | None,
    register: str | None = None,
    tracking_uri: str | None = None,
    as_json: bool = False,
) -> Exported:
    """Export what was typed; the work of ``export`` and ``apply``.

    Raises:
        AutoPruneError: something typed cannot be had; before any work.
    """
    from autoprune.cli.output import console
    from autoprune.deploy.export import export_named

    out = console(as_json)
    return export_named(
        source,
        output,
        format_name,
        rebuild=rebuild,
        gpus=gpus,
        register=register,
        tracking_uri=tracking_uri,
        home=home_dir(home),
        on_stage=lambda text: out.print(text, style="dim"),
    )


def print_exported(exported: Exported, out: Console) -> None:
    """Print where it stands, how large it is, what was proved, and what to do next."""
    from autoprune.cli.output import size_on_disk
    from autoprune.deploy.formats.table import CHECKPOINT
    from autoprune.deploy.scoring import evaluate_command
    from autoprune.tracking.terminal import params_text

    def say(text: str) -> None:
        out.print(text, soft_wrap=True)

    made = exported.applied
    if made is None or exported.format != CHECKPOINT:
        say(f"done: {exported.path} ({exported.format}, {size_on_disk(exported.nbytes)})")
    else:
        stored = f"{size_on_disk(made.stored)} in {made.precision}"
        kept = "" if made.retention is None else f", retention {made.retention:.3f}"
        say(
            f"done: {made.path} ({params_text(made.params)} parameters, "
            f"{made.fraction:.1%} of the whole, {stored}{kept})"
        )
    if made is not None and made.left:
        say(
            f"{len(made.left)} linear layers have widths that {made.precision} does not "
            "take and are left as they are; the card names them"
        )
    for line in exported.proved:
        say(line)
    if made is not None and made.difference is not None:
        say(_difference(made.difference))
    if exported.format == CHECKPOINT:
        say(f"next:\n  {evaluate_command(exported.path)}")
    else:
        say(f"next:\n  see {exported.path / 'README.md'}, which says how to run it")


def _difference(difference: Difference) -> str:
    kept = "?" if difference.kept is None else f"{difference.kept:.4f}"
    text = (
        f"rebuilt retains {difference.rebuilt or 0:.4f} on split {difference.split}, the kept one "
        f"{kept}; the largest difference of a task's score is {difference.largest_score:.4f}"
    )
    if difference.largest_weight is not None:
        text += f", of a weight {difference.largest_weight:.1e}"
    return text
