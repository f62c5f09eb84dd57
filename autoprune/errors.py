"""The one error that reaches a user: a line that names the value and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AutoPruneError(Exception):
    """Something the user can mend.

    The message is one line: what is wrong with which value, then what to do.
    The CLI prints it without a traceback and leaves with ``exit_code``.
    """

    exit_code = 2


class StoppedError(AutoPruneError):
    """Work that ended before its end (Ctrl-C, every trial failed); exit code 3."""

    exit_code = 3


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'X'?)`` for the nearest known name, or the known names.

    Meant to be appended to an error's message.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (known: {', '.join(names)})"
