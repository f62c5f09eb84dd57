"""``autoprune data``: a first look at data of one's own, as a model would read it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli.options import Json, example
from autoprune.errors import AutoPruneError

if TYPE_CHECKING:
    from autoprune.data.sources.user import UserSplits

EXAMPLE = example(
    "autoprune data my_data.json --images ./images",
    "autoprune data chats.json pictures.parquet=2 --columns question=prompt,answer=label",
)

SHOWN = 3
"""Samples that are shown."""

SHARES = {"shortest": 0.0, "median": 0.5, "90 %": 0.9, "99 %": 0.99, "longest": 1.0}


def data(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="LLaVA JSON or JSONL files, parquet files, saved data sets or hub names, each "
            "with =WEIGHT where it is to be a share of the mix.",
            metavar="PATH[=WEIGHT]...",
        ),
    ],
    images: Annotated[
        str | None,
        typer.Option(
            help="Folder that image paths start from; by default the file's own.", metavar="DIR"
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Model that is to read the data: its name or directory.")
    ] = "embedded",
    columns: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns: image=img,question=prompt,answer=label, or conversations=chat.",
            metavar="NAME=COLUMN[,...]",
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="Most tokens of a sample; by default what the model was made for.",
            metavar="TOKENS",
            min=1,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Look data through, and show what a search would train on.

    What is trained on, the answers and their ends, is coloured.
    """
    from autoprune.cli.output import console, json_stdout, print_json

    with json_stdout(as_json):
        found = look(paths, images, model, columns or [], max_length)
    if as_json:
        print_json(found)
        return
    _show(found, console())


def look(
    paths: list[str], images: str | None, model: str, columns: list[str], max_length: int | None
) -> dict[str, Any]:
    """Return what ``autoprune data --json`` prints.

    Raises:
        AutoPruneError: the first thing that is wrong with the data, or a model that is not there.
    """
    from autoprune.data.lengths import longest_of, measure, pieces, read_row
    from autoprune.data.sources.user import open_data, read_data
    from autoprune.evaluation.held_out import data_tasks
    from autoprune.models.families import wrapper_of
    from autoprune.models.loading import load_processor
    from autoprune.pipeline.prepare import inspect

    spec = read_data(paths, None if images is None else Path(images), columns, max_length)
    splits = open_data(spec)
    dense = inspect(model, outline=True)
    vision = wrapper_of(dense.config).projector is not None
    processor = load_processor(dense.directory, vision)
    lengths = measure(splits, dense.config, processor, longest_of(dense.config, spec))
    tokenizer = getattr(processor, "tokenizer", processor)
    shown = []
    for sample in splits.open("train", SHOWN):
        row = read_row(processor, sample, not vision)
        shown.append(
            {
                "sample": sample.key,
                "images": [list(image.size) for image in sample.images],
                "tokens": len(row),
                "text": [
                    {"text": text, "trained": trained} for text, trained in pieces(row, tokenizer)
                ],
            }
        )
    try:
        tasks, why = [task.name for task in data_tasks(splits)], ""
    except AutoPruneError as error:
        tasks, why = [], str(error)
    return {
        "identity": spec.identity,
        "model": model,
        "sources": _counts(splits),
        "splits": {name: splits.size(name) for name in splits.places},
        "lengths": {
            **{name: lengths.quantile(share) for name, share in SHARES.items()},
            "measured": len(lengths.tokens),
            "most": lengths.longest,
            "cut": lengths.cut,
            "left_out": lengths.left_out,
            "exact": lengths.exact,
        },
        "too_long": lengths.line,
        "tasks": tasks,
        "no_tasks": why,
        "samples": shown,
    }


def _counts(splits: UserSplits) -> list[dict[str, Any]]:
    import numpy as np

    from autoprune.data.ragged import ranges

    found = []
    for number, source in enumerate(splits.sources):
        index = source.index
        rows = splits.rows[splits.of == number]
        counts = index.counts[rows]
        shown = ranges(index.offsets[rows], counts)
        spec = splits.data.sources[number]
        found.append(
            {
                "name": source.name,
                "path": spec.ref,
                "weight": spec.weight,
                "rows": len(index),
                "used": len(rows),
                "images": len(np.unique(index.images[shown])),
                "text_only": int((counts == 0).sum()),
                "several_images": int((counts > 1).sum()),
                "turns": int(index.turns[rows].sum()),
                "several_turns": int((index.turns[rows] > 1).sum()),
                "system": int(index.system[rows].sum()),
                "short_answers": float(index.short[rows].mean()),
            }
        )
    return found


def _show(found: Mapping[str, Any], out: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    titles = ("source", "rows", "used", "images", "text only", "several images", "turns")
    for title in (*titles, "several turns"):
        table.add_column(title, justify="left" if title == "source" else "right")
    for one in found["sources"]:
        names = ("rows", "used", "images", "text_only", "several_images", "turns", "several_turns")
        table.add_row(one["name"], *(f"{one[name]:,}" for name in names))
    out.print(table)
    for one in found["sources"]:
        if one["system"]:
            out.print(f"{one['system']:,} of {one['name']} begin with a system message")
    out.print()
    splits = ", ".join(f"{count:,} {name}" for name, count in found["splits"].items())
    out.print(f"splits, disjoint by image: {splits}")
    lengths = found["lengths"]
    said = ", ".join(f"{name} {lengths[name]:,}" for name in SHARES)
    out.print(
        f"tokens of a sample, as {found['model']} reads it: {said} "
        f"(of {lengths['measured']:,} measured; {lengths['most']:,} may be had)"
    )
    out.print(found["too_long"] or "left out: nothing")
    if found["tasks"]:
        out.print(f"held-out rows can be asked by exact match: {', '.join(found['tasks'])}")
    else:
        out.print(f"no questions to score on: {found['no_tasks']}")
    for sample in found["samples"]:
        shown = ", ".join(f"{width}×{height}" for width, height in sample["images"]) or "no image"
        out.print(f"\n{sample['sample']} ({shown}, {sample['tokens']:,} tokens)")
        text = Text()
        for piece in sample["text"]:
            text.append(piece["text"], style="bold green" if piece["trained"] else None)
        out.print(text)
