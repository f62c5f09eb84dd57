"""``autoprune convert``: a checkpoint in its authors' own layout as a transformers one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.options import Json, example

if TYPE_CHECKING:
    from rich.console import Console

    from autoprune.models.convert.run import Converted

EXAMPLE = example(
    "autoprune convert BAAI/Bunny-v1_0-3B -o bunny-3b",
    "autoprune convert OpenGVLab/Mini-InternVL-Chat-4B-V1-5 -o mini-internvl-4b",
)


def convert(
    source: Annotated[
        str,
        typer.Argument(help="A checkpoint directory, or a hub name.", metavar="DIR_OR_HUB_NAME"),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory to write.", metavar="DIR")
    ],
    as_json: Json = False,
) -> None:
    """Turn a checkpoint in its authors' own layout into one that stock transformers loads.

    Known are Bunny-v1.0-3B and Mini-InternVL-Chat-4B-V1-5. The weights keep their values; the
    result is loaded in a fresh process and compared with them before it is put in place.
    """
    from autoprune.cli.output import console, json_stdout, print_json
    from autoprune.models.convert.run import convert_checkpoint

    out = console(as_json)
    with json_stdout(as_json):
        done = convert_checkpoint(
            source, output, on_stage=lambda text: out.print(text, style="dim", soft_wrap=True)
        )
        if not as_json:
            _print(done, out)
    if as_json:
        print_json(done.to_dict())


def _print(done: Converted, out: Console) -> None:
    from autoprune.cli.output import size_on_disk
    from autoprune.tracking.terminal import params_text

    out.print(
        f"done: {done.path} ({done.model_class}, {params_text(done.parameters)} parameters, "
        f"{size_on_disk(done.nbytes)})",
        soft_wrap=True,
    )
    out.print(
        f"loaded in a fresh process by stock transformers: all {done.proof.tensors} tensors are "
        "as in the original, none missing or left over",
        soft_wrap=True,
    )
    for note in done.notes:
        out.print(f"note: {note}", soft_wrap=True)
    out.print(f"next:\n  autoprune search --model {done.path} --dry-run", soft_wrap=True)
