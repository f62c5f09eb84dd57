"""The ``autoprune`` command: its sub-commands, and the one place that makes exit codes.

Exit codes: 0 done, 2 bad input, 3 stopped before the end, 1 a bug. Nothing heavy is imported
here, so that ``autoprune --help`` answers at once.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence

import typer

from autoprune import __version__
from autoprune.cli import (
    apply,
    compare,
    convert,
    data,
    devices,
    doctor,
    evaluate,
    export,
    front,
    models,
    pick,
    profile,
    register,
    report,
    search,
    spaces,
    ui,
)
from autoprune.cli.options import example
from autoprune.cli.output import print_error
from autoprune.errors import AutoPruneError

BUG, BAD_INPUT, STOPPED = 1, 2, 3
FULL = (errno.ENOSPC, errno.EDQUOT)
INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    name="autoprune",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example(
        "autoprune search --budget 60% --name demo",
        "autoprune front demo",
        "autoprune apply demo:TRIAL -o smaller-model",
    ),
)
app.command("search", epilog=search.EXAMPLE)(search.search)
app.command("front", epilog=front.EXAMPLE)(front.front)
app.command("compare", epilog=compare.EXAMPLE)(compare.compare)
app.command("report", epilog=report.EXAMPLE)(report.report)
app.command("apply", epilog=apply.EXAMPLE)(apply.apply)
app.command("pick", epilog=pick.EXAMPLE)(pick.pick)
app.command("export", epilog=export.EXAMPLE)(export.export)
app.command("register", epilog=register.EXAMPLE)(register.register)
app.command("evaluate", epilog=evaluate.EXAMPLE)(evaluate.evaluate)
app.command("convert", epilog=convert.EXAMPLE)(convert.convert)
app.command("data", epilog=data.EXAMPLE)(data.data)
app.command("models", epilog=models.EXAMPLE)(models.models)
app.command("spaces", epilog=spaces.EXAMPLE)(spaces.spaces)
app.command("devices", epilog=devices.EXAMPLE)(devices.devices)
app.command("profile", epilog=profile.EXAMPLE)(profile.profile)
app.command("doctor", epilog=doctor.EXAMPLE)(doctor.doctor)
app.command("ui", epilog=ui.EXAMPLE)(ui.ui)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"autoprune {__version__}")
        raise typer.Exit(0)


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version and leave.", callback=_version, is_eager=True
    ),
) -> None:
    """Find the smaller models that keep the most of a vision-language model's ability."""


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; never raises."""
    try:
        code = app(args=list(arguments) or ["--help"], standalone_mode=False)
    except AutoPruneError as error:
        print_error(str(error))
        return error.exit_code
    except typer.TyperException as error:
        print_error(_said(error))
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in FULL
        if full or os.strerror(errno.ENOSPC) in str(error):  # libraries have errors of their own
            print_error(f"{error}: free some space, and run the same command again")
            return STOPPED
        return _report_bug(error)
    if code == INTERRUPTED:
        print_error("stopped before the end; the same command starts it again")
        return STOPPED
    return code if isinstance(code, int) else 0


def _said(error: typer.TyperException) -> str:
    """Return what was typed wrongly; of a value that is no number, which, and what would be."""
    from pydantic import ValidationError

    from autoprune.search.options import problem_line

    cause, param = error.__cause__, getattr(error, "param", None)
    if isinstance(cause, ValidationError) and param is not None:
        return problem_line(param.opts[0], cause.errors()[0])
    return error.format_message()


def _report_bug(error: Exception) -> int:
    """Say in a line what went wrong, and leave the traceback in a file."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="autoprune-traceback-", suffix=".txt", delete=False
    ) as stream:
        stream.write("autoprune " + " ".join(sys.argv[1:]) + "\n")
        stream.write("".join(traceback.format_exception(error)))
    print_error(
        f"this is a bug in autoprune: {type(error).__name__}: {error} "
        f"(traceback in {stream.name}; please report it)"
    )
    return BUG


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without, say, an ellipsis
    sys.exit(run(sys.argv[1:]))
