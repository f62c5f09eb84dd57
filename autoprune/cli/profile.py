"""``autoprune profile``: measure this machine, as a device to plan for."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.options import Home, Json, example, home_dir
from autoprune.errors import AutoPruneError

EXAMPLE = example(
    "autoprune profile",
    "autoprune search --device here --budget 40ms-latency",
    "autoprune profile --name box -o box.json",
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def profile(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the entry to this file, too.", metavar="FILE"),
    ] = None,
    name: Annotated[str, typer.Option(help="Name to keep it under.")] = "here",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Measure this machine and keep it as a device that --device takes.

    Bandwidth beyond the caches, products of matrices by dtype, and what a layer and a token take
    beside that. It takes seconds; a busy machine measures slow.
    """
    from autoprune.cli.output import console, json_stdout, print_json
    from autoprune.cost.devices import PROFILES, devices

    if not _NAME.fullmatch(name):
        raise AutoPruneError(
            f"--name {name!r} cannot name a file: use letters, digits, '.', '_' and '-'"
        )
    if name in devices():
        raise AutoPruneError(
            f"--name {name} is a device of the catalogue: choose another, such as here"
        )
    kept = home_dir(home) / PROFILES / f"{name}.json"
    for path in filter(None, (output, kept)):
        _check_writable(path)
    out = console(as_json)
    with json_stdout(as_json):
        from autoprune.cost.profile import profile as measure

        found = measure(name, lambda said: out.print(f"measuring: {said}"))
    text = json.dumps(found.to_dict(), indent=2) + "\n"
    for path in filter(None, (output, kept)):
        _write(path, text)
    if as_json:
        print_json(found.to_dict())
        return
    from autoprune.cli.devices import show

    show(found)
    out.print(f"\nkept as {kept}; --device {name} takes it", soft_wrap=True)


def _check_writable(path: Path) -> None:
    place = path.absolute().parent
    while not place.exists():
        place = place.parent
    from autoprune.models.output import is_virtual

    closed = not place.is_dir() or not os.access(place, os.W_OK | os.X_OK) or is_virtual(place)
    if closed or path.is_dir():
        raise AutoPruneError(f"{path} cannot be written: name a file in a directory")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_text(text)
        part.replace(path)
    except OSError as error:
        raise AutoPruneError(
            f"{path} cannot be written ({error.strerror}): name another file"
        ) from None
