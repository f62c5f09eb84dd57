"""``autoprune pick``: the best point of finished searches for a device and its limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.amounts import seconds_text
from autoprune.cli.options import Home, Json, example, home_dir

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from autoprune.deploy.pick.candidates import Candidate
    from autoprune.deploy.pick.pick import Picked

EXAMPLE = example(
    "autoprune pick demo --min-retention 0.9",
    "autoprune pick demo other --device jetson-orin-nano-8gb --max-latency 40ms",
    "autoprune pick demo --max-params 1.1M --floor digits_read=0.95 --json",
)


def pick(
    names: Annotated[
        list[str],
        typer.Argument(help="Finished searches of one dense model.", metavar="SEARCH..."),
    ],
    device: Annotated[
        str | None,
        typer.Option(
            help="Fit the memory of this device, and say the time of a token on it: modelled, or "
            "measured on this machine for 'here'. 'autoprune devices' lists them.",
            metavar="NAME",
        ),
    ] = None,
    min_retention: Annotated[
        float | None,
        typer.Option(help="Least share of the dense model's ability to keep.", metavar="SHARE"),
    ] = None,
    max_latency: Annotated[
        str | None, typer.Option(help="Most time of a token, such as 40ms.", metavar="TIME")
    ] = None,
    max_params: Annotated[
        str | None, typer.Option(help="Most parameters, such as 3B.", metavar="COUNT")
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            help="Most memory for weights, cache and activations, such as 6GiB.", metavar="SIZE"
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Tokens of text, beside an image, that memory and time are said for.",
            metavar="TOKENS",
            min=1,
        ),
    ] = None,
    cost_model: Annotated[
        str | None,
        typer.Option(
            help="What says the time of a token on --device: roofline, or one that another package "
            "adds; by default what the search used.",
            metavar="NAME",
        ),
    ] = None,
    floor: Annotated[
        list[str] | None,
        typer.Option(
            help="Least share to keep of a task or a capability, such as pope=0.9; may be given "
            "several times.",
            metavar="NAME=SHARE",
        ),
    ] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Choose the point that keeps the most under constraints, and say why the others lost.

    Points that the data do not tell apart tie, and the cheapest of them is chosen: the fastest
    where time is bounded, else the one that takes the least memory where that is, else the
    smallest. Baselines are points like any other.
    """
    from autoprune.cli.output import console, json_stdout, print_json
    from autoprune.deploy.pick.pick import pick_named

    with json_stdout(as_json):
        found = pick_named(
            names,
            home=home_dir(home),
            device=device,
            min_retention=min_retention,
            max_latency=max_latency,
            max_params=max_params,
            max_memory=max_memory,
            context=context,
            cost_model=cost_model,
            floors=floor or (),
        )
    if as_json:
        print_json(found.to_dict())
    else:
        print_picked(found, console())


def print_picked(found: Picked, out: Console) -> None:
    """Print the winner, the runner-up, why the others lost, and what to type next."""
    from autoprune.deploy.pick.pick import difference_text, reason

    def say(text: str) -> None:
        out.print(text, soft_wrap=True)

    choice = found.choice
    assert choice.winner is not None
    say(f"pick {_described(found.of(choice.winner.name))}")
    if found.limits:
        say(f"under {', '.join(limit.said for limit in found.limits)}")
    if choice.ties:
        say(
            f"it ties with {', '.join(choice.ties)}: the data do not say which keeps more, and of "
            f"those that nothing beats it has the lowest {_COSTS[found.cost]}"
        )
    if found.prompt is not None:
        say(f"memory and time are for {found.prompt.said}, one prompt at a time")
    if choice.runner_up is not None and choice.gap is not None:
        runner = _described(found.of(choice.runner_up.name))
        ties = ", ".join(choice.runner_ties) or "nothing"
        say(f"runner-up: {runner}; {difference_text(choice.gap)} to the pick, ties with {ties}")
    if choice.lost:
        out.print(_table(found))
        for lost in choice.lost:
            say(f"  {_label(found.of(lost.entry.name))}: {reason(found, lost)}")
    say(f"next:\n  {found.export}")


_COSTS = {
    "latency": "time of a token",
    "memory": "memory",
    "params": "number of parameters",
    "bytes": "size in bytes",
}


def _label(candidate: Candidate) -> str:
    base = candidate.point.baseline
    return f"{candidate.name} ({base})" if base else candidate.name


def _described(candidate: Candidate) -> str:
    from autoprune.cli.output import size_on_disk
    from autoprune.cost.devices import HERE
    from autoprune.tracking.terminal import params_text

    point = candidate.point
    kept = point.retention
    parts = [
        f"{params_text(point.params)} parameters ({point.fraction:.1%})",
        f"retention {kept.mean:.3f} [{kept.low:.3f}, {kept.high:.3f}]",
    ]
    if candidate.memory is not None:
        parts.append(f"{size_on_disk(candidate.memory.total)} of memory")
    if (latency := candidate.latency) is not None:
        where = "on this machine" if latency.device == HERE else f"for {latency.device}"
        said = f"{seconds_text(latency.seconds)} a token"
        if latency.low is not None and latency.high is not None:
            said += f" [{seconds_text(latency.low)}, {seconds_text(latency.high)}]"
        parts.append(f"{said}, {latency.kind} {where}")
    return f"{_label(candidate)}: {', '.join(parts)}"


def _table(found: Picked) -> Table:
    """Return all points, the one that keeps the most first; the pick is marked."""
    from rich import box
    from rich.table import Table

    from autoprune.cli.output import size_on_disk
    from autoprune.tracking.terminal import params_text

    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("point", overflow="fold")
    table.add_column("retention 95 %", no_wrap=True)
    columns: dict[str, Callable[[Candidate], str]] = {
        "size": lambda one: params_text(one.point.params)
    }
    if found.candidates[0].memory is not None:
        columns["memory"] = lambda one: size_on_disk(one.memory.total) if one.memory else ""
    if kinds := {one.latency.kind for one in found.candidates if one.latency}:
        columns[" or ".join(sorted(kinds))] = lambda one: (
            seconds_text(one.latency.seconds) if one.latency else ""
        )
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    winner = found.choice.winner
    for one in sorted(found.candidates, key=lambda c: -c.point.retention.mean):
        kept = one.point.retention
        mark = "*" if winner is not None and one.name == winner.name else " "
        table.add_row(
            f"{mark}{_label(one)}",
            f"{kept.mean:.3f} {kept.low:.3f}–{kept.high:.3f}",
            *(text(one) for text in columns.values()),
        )
    return table
