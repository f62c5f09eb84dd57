"""``autoprune search``: run a search, or say what it would do."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from autoprune.cli.front import front_object
from autoprune.cli.options import (
    PLACE,
    Home,
    Json,
    TrackingUri,
    example,
    home_dir,
    listed,
    setting,
)
from autoprune.errors import AutoPruneError
from autoprune.search.options import objective_settings
from autoprune.search.settings import SearchSettings, make_settings

EXAMPLE = example(
    "autoprune search --budget 60% --trials 24 --name demo",
    "autoprune search --model path/to/llava --budget 3B-params --workers 4 --gpus-per-trial 1",
    "autoprune search --resume demo",
)


GOAL, HOW, TRIAL = "What to find", "How to search", "Recovery and scoring of a trial"
MACHINE, DATA = "Machine", "Data of your own"


def search(
    budgets: Annotated[list[str] | None, setting("budgets", GOAL, metavar="SIZE")] = None,
    model: Annotated[str | None, setting("model", GOAL, metavar="MODEL")] = None,
    name: Annotated[str | None, setting("name", GOAL, metavar="NAME")] = None,
    tasks: Annotated[list[str] | None, setting("tasks", GOAL, metavar="TASK[,TASK...]")] = None,
    task_data: Annotated[list[str] | None, setting("task_data", GOAL, metavar="TASK=DIR")] = None,
    floors: Annotated[list[str] | None, setting("floors", GOAL, metavar="NAME=SHARE")] = None,
    capabilities: Annotated[
        list[str] | None,
        setting("capabilities", GOAL, option="--capability", metavar="TASK=WORD"),
    ] = None,
    data: Annotated[list[str] | None, setting("data", DATA, metavar="PATH[=WEIGHT]")] = None,
    images: Annotated[str | None, setting("images", DATA, metavar="DIR")] = None,
    columns: Annotated[
        list[str] | None, setting("columns", DATA, metavar="NAME=COLUMN[,...]")
    ] = None,
    max_length: Annotated[int | None, setting("max_length", DATA, metavar="TOKENS")] = None,
    min_size: Annotated[str | None, setting("min_size", GOAL, metavar="SIZE")] = None,
    deployable: Annotated[str | None, setting("deployable", GOAL, metavar="stock|any")] = None,
    multiple: Annotated[int | None, setting("multiple", HOW)] = None,
    quantize: Annotated[
        list[str] | None, setting("quantize", GOAL, metavar="none|int8|int4[,...]")
    ] = None,
    device: Annotated[str | None, setting("device", GOAL, metavar="NAME|FILE|here")] = None,
    cost_model: Annotated[str | None, setting("cost_model", GOAL, metavar="NAME")] = None,
    context: Annotated[int | None, setting("context", GOAL, metavar="TOKENS")] = None,
    images_per_prompt: Annotated[int | None, setting("images_per_prompt", GOAL)] = None,
    image_tokens: Annotated[int | None, setting("image_tokens", GOAL, metavar="TOKENS")] = None,
    objective: Annotated[
        list[str] | None,
        setting("objective", GOAL, metavar="params|bytes|memory[,latency]"),
    ] = None,
    trials: Annotated[int | None, setting("trials", HOW)] = None,
    max_hours: Annotated[float | None, setting("max_hours", HOW)] = None,
    patience: Annotated[float | None, setting("patience", HOW, metavar="POINTS")] = None,
    refine: Annotated[float | None, setting("refine", HOW, metavar="SHARE")] = None,
    space: Annotated[str | None, setting("space", HOW, metavar="NAME|FILE")] = None,
    sampler: Annotated[str | None, setting("sampler", HOW, metavar="NAME")] = None,
    early_stopping: Annotated[
        bool | None,
        setting("early_stopping", HOW, option="--early-stopping/--no-early-stopping"),
    ] = None,
    warm_baselines: Annotated[
        bool | None, setting("warm_baselines", HOW, option="--baselines/--no-baselines")
    ] = None,
    warm_start: Annotated[list[str] | None, setting("warm_start", HOW, metavar="NAME")] = None,
    seed: Annotated[int | None, setting("seed", HOW)] = None,
    data_fraction: Annotated[float | None, setting("data_fraction", TRIAL)] = None,
    max_recovery_samples: Annotated[int | None, setting("max_recovery_samples", TRIAL)] = None,
    search_samples: Annotated[int | None, setting("search_samples", TRIAL)] = None,
    rung_share: Annotated[float | None, setting("rung_share", TRIAL)] = None,
    confirm_samples: Annotated[int | None, setting("confirm_samples", TRIAL)] = None,
    confirm_seeds: Annotated[int | None, setting("confirm_seeds", TRIAL)] = None,
    confirm_points: Annotated[int | None, setting("confirm_points", TRIAL)] = None,
    workers: Annotated[int | None, setting("workers", MACHINE)] = None,
    cpus_per_trial: Annotated[float | None, setting("cpus_per_trial", MACHINE)] = None,
    gpus_per_trial: Annotated[float | None, setting("gpus_per_trial", MACHINE)] = None,
    cache_limit: Annotated[str | None, setting("cache_limit", MACHINE, metavar="SIZE")] = None,
    ray_address: Annotated[str | None, setting("ray_address", MACHINE, metavar="ADDRESS")] = None,
    home: Home = None,
    tracking_uri: TrackingUri = None,
    storage: Annotated[str | None, setting("storage", PLACE, metavar="URL")] = None,
    keep: Annotated[bool | None, setting("keep", PLACE, option="--keep/--no-keep")] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Go on with this search, with the settings it was started with.", metavar="NAME"
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the plan of work and a forecast; start nothing."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Search for the smaller models that keep the most of a model's ability.

    Each trial prunes the model, recovers it for a while and scores it.
    The best are run again with several seeds before they are shown.

    The same command shows a finished search at once, and goes on with one that was stopped.
    """
    # Each parameter is named as its setting; what was not typed is left to the setting's default.
    typed = dict(locals())
    for several in ("tasks", "quantize"):
        if items := typed[several]:
            typed[several] = listed(items, f"--{several}")
    if items := typed.pop("objective"):
        typed |= objective_settings(listed(items, "--objective"))
    if name == "":
        raise AutoPruneError("--name '' names nothing: give a name, or leave --name out")
    typed["home"] = home_dir(home)
    values = {
        field: tuple(value) if isinstance(value, list) else value
        for field, value in typed.items()
        if field in SearchSettings.model_fields and value is not None
    }
    settings = make_settings(values) if resume is None else _resumed(resume, values)
    if dry_run:
        from autoprune.cli.plan import print_plan

        print_plan(settings, as_json)
        return

    from autoprune.cli.live import view
    from autoprune.cli.output import console, json_stdout, print_json
    from autoprune.cli.result import print_result
    from autoprune.deploy.report.page import attached
    from autoprune.search.driver import run_search
    from autoprune.search.records.store import find_search

    out = console(as_json)
    with json_stdout(as_json):
        with view(settings.trials, out) as listener:
            summary = run_search(settings, listener, attach=attached)
        print_result(summary, find_search(settings.home, settings.name), out)
    if as_json:
        print_json(front_object(summary))


def _resumed(name: str, values: dict[str, Any]) -> SearchSettings:
    """Return the settings of a search that was started before, with what may change changed."""
    from autoprune.search.records.store import find_search

    if values.get("name", name) != name:
        raise AutoPruneError(
            f"--resume {name} and --name {values['name']} name two searches: leave --name out"
        )
    return find_search(values["home"], name).settings(values)
