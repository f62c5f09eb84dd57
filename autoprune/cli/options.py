"""Options that several commands share, and how a search's options take their words.

A default and its explanation are written once, at the field of ``SearchSettings``; the command
line shows them and passes on only what was typed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from autoprune.errors import AutoPruneError
from autoprune.search.options import flag
from autoprune.search.settings import SearchSettings


def example(*commands: str) -> str:
    """Return the part of a ``--help`` that shows commands to type."""
    return "[bold]Example:[/bold]\n\n" + "\n\n".join(f"  {command}" for command in commands)


def setting(
    field: str,
    panel: str | None = None,
    *,
    option: str = "",
    metavar: str | None = None,
    **more: Any,
) -> Any:
    """Return the option of a field of ``SearchSettings``: its flag, words and default.

    Args:
        field: of ``SearchSettings``.
        panel: heading of ``--help`` that it stands under.
        option: its flag, where that is not the field's name.
        metavar: word for its value.
        more: passed on to typer.
    """
    info = SearchSettings.model_fields[field]
    default = info.default
    if isinstance(default, tuple):
        default = ", ".join(default)
    if isinstance(default, bool):
        default = "on" if default else "off"
    if isinstance(default, float):
        default = f"{default:.3g}"  # a third in full fills the line
    return typer.Option(
        option or flag(field),
        help=info.description,
        metavar=metavar,
        rich_help_panel=panel,
        show_default=False if default in (None, "") else str(default),
        **more,
    )


def listed(items: list[str], option: str) -> list[str]:
    """Return the names that an option was given, several times or with commas.

    Raises:
        AutoPruneError: there is none among what was typed.
    """
    names = [name.strip() for item in items for name in item.split(",") if name.strip()]
    if not names:
        raise AutoPruneError(
            f"{option} {','.join(items)!r} names nothing: give a name, or leave it out"
        )
    return names


PLACE = "Where things are written"

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Directory to write.", metavar="DIR")]
Rebuild = Annotated[
    bool,
    typer.Option("--rebuild", help="Train it again, and state the difference to what was kept."),
]
Gpus = Annotated[float, typer.Option(help="GPUs to use; 0 computes on the CPU.", min=0.0)]
Home = Annotated[
    Path | None, setting("home", PLACE, metavar="DIR", envvar="AUTOPRUNE_HOME", show_envvar=True)
]
TrackingUri = Annotated[str | None, setting("tracking_uri", PLACE, metavar="URI")]


def home_dir(typed: Path | None) -> Path:
    """Return the directory that everything is written to: as typed, or the default."""
    return typed if typed is not None else Path(SearchSettings.model_fields["home"].default)
