"""``autoprune report``: a search as one page that can be sent to anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.options import Home, example, home_dir
from autoprune.errors import AutoPruneError

EXAMPLE = example("autoprune report demo -o report.html", "autoprune report demo --open")
ENDINGS = (".html", ".htm")


def report(
    name: Annotated[str, typer.Argument(help="Name of the search.", metavar="NAME")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write; by default report.html in the search's directory.",
            metavar="FILE",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    home: Home = None,
) -> None:
    """Write a search as one HTML file: its front to explore, its layers, knobs, times and losers.

    The file needs no network and no other file. A search that has not finished is shown so far.
    """
    from autoprune.cli.output import console, size_on_disk
    from autoprune.search.records.store import find_search

    store = find_search(home_dir(home), name)
    path = output or store.directory / "report.html"
    if path.suffix.lower() not in ENDINGS:
        raise AutoPruneError(f"-o {path} does not end in .html: name it so")
    if path.is_dir():
        raise AutoPruneError(f"-o {path} is a directory: name a file in it")
    from autoprune.deploy.report.gather import gather
    from autoprune.deploy.report.page import write_page

    found = gather(store)
    write_page(found, path)
    out = console()
    out.print(found.found[0], soft_wrap=True)
    out.print(f"done: {path} ({size_on_disk(path.stat().st_size)})", soft_wrap=True)
    if show:
        import webbrowser

        if not webbrowser.open(path.absolute().as_uri()):
            out.print("no browser was found here: open the file in one", soft_wrap=True)
