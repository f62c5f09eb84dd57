"""A stop is said as one, wherever the signal meets the search."""

from __future__ import annotations

import os
import signal

import pytest

from autoprune.errors import StoppedError
from autoprune.search.driver import _Interrupt, _Stop


def _as_ray_does() -> None:
    """Take a signal like Ray's compiled calls, which wrap whatever its handler raises."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as error:
        raise SystemError("wait returned a result with an exception set") from error


def test_a_stop_inside_a_call_of_ray_is_no_bug() -> None:
    with pytest.raises(StoppedError, match="--resume toy' goes on"), _Interrupt("toy"):
        _as_ray_does()


def test_what_lies_between_sees_the_stop_itself() -> None:
    with _Interrupt("toy") as interrupt, pytest.raises(_Stop), interrupt.bare():
        _as_ray_does()


def test_another_system_error_stays_one() -> None:
    with pytest.raises(SystemError), _Interrupt("toy") as interrupt, interrupt.bare():
        raise SystemError("of another kind")
