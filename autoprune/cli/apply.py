"""``autoprune apply``: one point of a front as a checkpoint that loads anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.front import parse_trial
from autoprune.cli.options import Gpus, Home, example, home_dir
from autoprune.errors import AutoPruneError

if TYPE_CHECKING:
    from rich.console import Console

    from autoprune.deploy.apply import Applied

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
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory to write.", metavar="DIR")
    ],
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild", help="Train it again, and state the difference to what was kept."
        ),
    ] = False,
    gpus: Gpus = 0.0,
    home: Home = None,
) -> None:
    """Write a candidate as a checkpoint, and prove that it reloads before saying done.

    The directory loads with stock transformers. Its card says how, what was cut, how it was
    trained, how it scores and how to make it again.
    """
    from autoprune.cli.output import console

    if gpus and not rebuild:
        raise AutoPruneError(
            f"--gpus {gpus:g} has nothing to compute without --rebuild, as kept weights are only "
            "written: leave it out"
        )
    directory = Path(source)
    if ":" not in source and directory.is_dir():
        from autoprune.deploy.source import from_checkpoint, is_checkpoint

        if not is_checkpoint(directory):
            raise AutoPruneError(
                f"{source} is no checkpoint that apply wrote: give NAME:TRIAL, such as demo:7"
            )
        if not rebuild:
            raise AutoPruneError(
                f"{source} is a checkpoint already: copy it, or make it again with --rebuild"
            )
        found = from_checkpoint(directory, home_dir(home))
    else:
        name, trial = parse_trial(source)
        from autoprune.deploy.source import from_search
        from autoprune.search.records.store import find_search

        found = from_search(find_search(home_dir(home), name), trial)

    from autoprune.deploy import apply as work

    out = console()

    def say(text: str) -> None:
        out.print(text, style="dim")

    if rebuild:
        _print(work.rebuild(found, output, gpus=gpus, on_stage=say), out)
    else:
        _print(work.apply_kept(found, output, say), out)


def _print(applied: Applied, out: Console) -> None:
    from autoprune.cli.output import size_on_disk
    from autoprune.tracking.terminal import params_text

    stored = f"{size_on_disk(applied.stored)} in {applied.precision}"
    kept = "" if applied.retention is None else f", retention {applied.retention:.3f}"
    out.print(
        f"done: {applied.path} ({params_text(applied.params)} parameters, "
        f"{applied.fraction:.1%} of the whole, {stored}{kept})",
        soft_wrap=True,
    )
    if applied.left:
        out.print(
            f"{len(applied.left)} linear layers have widths that {applied.precision} does not "
            "take and are left as they are; the card names them",
            soft_wrap=True,
        )
    proof = applied.proof
    out.print(
        f"reloaded in a fresh process by stock transformers: logits differ by at most "
        f"{proof.max_abs_diff:.1e} of {proof.scale:.3g}, no weight missing or left over",
        soft_wrap=True,
    )
    if (difference := applied.difference) is not None:
        kept_text = "?" if difference.kept is None else f"{difference.kept:.4f}"
        text = f"rebuilt retains {difference.rebuilt or 0:.4f} on split {difference.split}, "
        text += f"the kept one {kept_text}"
        text += f"; the largest difference of a task's score is {difference.largest_score:.4f}"
        if difference.largest_weight is not None:
            text += f", of a weight {difference.largest_weight:.1e}"
        out.print(text, soft_wrap=True)
    out.print(f"next:\n  autoprune evaluate {applied.path}", soft_wrap=True)
