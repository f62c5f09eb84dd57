"""``autoprune evaluate``: how well a checkpoint does, and what it keeps of its dense model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.options import Gpus, Json, example, listed, setting

if TYPE_CHECKING:
    from rich.console import Console

    from autoprune.deploy.scoring import Scored

EXAMPLE = example(
    "autoprune evaluate smaller-model",
    "autoprune evaluate embedded --tasks digits_read,digits_count --json",
    "autoprune evaluate smaller-model --tasks pope,my_task.yaml --task-data pope=./pope",
    "autoprune evaluate smaller-model --data my_data.json --images ./images",
)


def evaluate(
    model: Annotated[
        str,
        typer.Argument(help="A checkpoint directory, embedded, or a hub name.", metavar="MODEL"),
    ],
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="Tasks to score on, by default all of the embedded data: names of lmms-eval's, or "
            "YAML files, each followed by :METRIC where another metric is to count.",
            metavar="TASK[,TASK...]",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Ask about held-out rows of data of your own, as a search on it does; written as "
            "for 'autoprune search --data'.",
            metavar="PATH[=WEIGHT]",
        ),
    ] = None,
    images: Annotated[str | None, setting("images", metavar="DIR")] = None,
    columns: Annotated[list[str] | None, setting("columns", metavar="NAME=COLUMN[,...]")] = None,
    task_data: Annotated[list[str] | None, setting("task_data", metavar="TASK=DIR")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Images to ask about: all, search or confirm; by default all of tasks "
            "that bring their own, confirm of the embedded data and of --data.",
            metavar="SPLIT",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="How many images of each task; by default all there are, or of the embedded data "
            "confirm's 512 or search's 384."
        ),
    ] = None,
    dense: Annotated[
        str | None,
        typer.Option(
            help="Dense model to compare with; by default the one that the checkpoint names.",
            metavar="MODEL",
        ),
    ] = None,
    gpus: Gpus = 0.0,
    as_json: Json = False,
) -> None:
    """Score a model on the tasks, and say what it retains of its dense model."""
    from autoprune.cli.output import console, json_stdout, print_json
    from autoprune.deploy.scoring import score_model
    from autoprune.search.own_data import read_spec

    out = console(as_json)
    with json_stdout(as_json):
        scored = score_model(
            model,
            tasks=listed(tasks, "--tasks") if tasks else (),
            data=read_spec(data or (), images, columns or ()),
            split=split,
            samples=samples,
            task_data=task_data or (),
            dense=dense,
            gpus=gpus,
            on_stage=lambda text: out.print(text, style="dim"),
        )
        if not as_json:
            _print(scored, out)
    if as_json:
        print_json(scored.to_dict())


def _print(scored: Scored, out: Console) -> None:
    from rich.table import Table

    from autoprune.tracking.terminal import params_text

    table = Table(box=None, pad_edge=False)
    table.add_column("task")
    columns = ["score"] if scored.dense_scores is None else ["score", "dense", "retained"]
    for title in columns:
        table.add_column(title, justify="right")
    for task, score in scored.scores.items():
        row = [task, f"{score:.3f}"]
        if scored.dense_scores is not None and scored.retention is not None:
            kept = scored.retention.per_task.get(task)
            row += [
                f"{scored.dense_scores[task]:.3f}",
                "left out" if kept is None else f"{kept:.3f}",
            ]
        table.add_row(*row)
    out.print(table)
    mean = sum(scored.scores.values()) / len(scored.scores)
    bits = f", the backbone in {scored.quantised}" if scored.quantised else ""
    out.print(
        f"{scored.ref}: {params_text(scored.params)} parameters{bits}, {mean:.3f} on average, "
        f"{scored.questions:,} questions on {scored.images} images of split {scored.split}",
        soft_wrap=True,
    )
    if scored.retention is not None and scored.interval is not None and scored.dense_params:
        out.print(
            f"retains {scored.retention.value:.3f} [{scored.interval.low:.3f}, "
            f"{scored.interval.high:.3f}] of {scored.dense_ref} (95 %, over images) at "
            f"{scored.params / scored.dense_params:.1%} of its parameters",
            soft_wrap=True,
        )
