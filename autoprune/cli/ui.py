"""``autoprune ui``: the MLflow UI on the runs of a search, with links that open where it counts."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.options import Home, TrackingUri, example, home_dir

EXAMPLE = example("autoprune ui demo", "autoprune ui demo --port 5050")


def ui(
    name: Annotated[
        str | None,
        typer.Argument(help="Print links to this search; by default to all.", metavar="[NAME]"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port on this machine; by default the first free from 5000.")
    ] = None,
    tracking_uri: TrackingUri = None,
    home: Home = None,
) -> None:
    """Start the MLflow UI and print links to the trials of a search. Ctrl-C ends it."""
    from rich.text import Text

    from autoprune.cli.output import console
    from autoprune.cli.result import print_links
    from autoprune.search.records.store import find_search, find_searches
    from autoprune.tracking.ui import serve_ui

    place = home_dir(home)
    stores = [find_search(place, name)] if name is not None else find_searches(place)
    if tracking_uri is None and name is not None:
        tracking_uri = stores[0].settings().tracking_uri
    out = console()

    def announce(url: str) -> None:
        out.print(Text(f"the MLflow UI runs at {url} (Ctrl-C ends it)"), soft_wrap=True)
        for store in stores:
            summary = store.summary()
            out.print(Text(f"search {store.name}:"))
            print_links(store, out, summary.front if summary else (), local=url)

    out.print("starting the MLflow UI", style="dim")
    serve_ui(place, announce, uri=tracking_uri, port=port)
