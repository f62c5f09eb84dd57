"""``autoprune front``: the confirmed front of a finished search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli.options import Home, Json, example, home_dir

if TYPE_CHECKING:
    from autoprune.tracking.records.summary import SearchSummary

EXAMPLE = example("autoprune front demo", "autoprune front demo --json")


def front(
    name: Annotated[str, typer.Argument(help="Name of the search.", metavar="NAME")],
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also the confirmed points that others dominate."),
    ] = False,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Show the confirmed front of a search: sizes, retention and its intervals."""
    from autoprune.cli.output import console, print_json
    from autoprune.cli.result import print_result
    from autoprune.search.records.store import find_search

    store = find_search(home_dir(home), name)
    summary = store.confirmed()
    if as_json:
        print_json(front_object(summary, everything=everything))
    else:
        print_result(summary, store, console(), everything=everything)


def front_object(summary: SearchSummary, *, everything: bool = False) -> dict[str, Any]:
    """Return what ``front --json`` prints: ``dense``, ``budget``, ``points`` and more.

    Without ``everything``, ``points`` holds the front alone.
    """
    value = summary.model_dump(mode="json")
    if not everything:
        value["points"] = [point.model_dump(mode="json") for point in summary.front]
        value["below"] = [point.model_dump(mode="json") for point in summary.below]
    return value
