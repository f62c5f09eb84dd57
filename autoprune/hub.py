"""The Hugging Face hub: asked where it answers, and else not waited for."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import cache
from typing import Any

SECONDS = 5.0
"""How long the hub may take to answer a first time."""

SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def switched_off() -> list[str]:
    """Return the environment variables that keep the hub away."""
    on = ("1", "ON", "YES", "TRUE")
    return [name for name in SWITCHES if os.environ.get(name, "").upper() in on]


@cache
def reachable() -> bool:
    """Whether the hub answers; found out once a process, through a proxy not at all."""
    from huggingface_hub import constants

    place = urllib.parse.urlsplit(constants.ENDPOINT)
    if place.hostname is None or urllib.request.getproxies().keys() & {place.scheme, "all"}:
        return True
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        with socket.create_connection((place.hostname, port), timeout=SECONDS):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def asked() -> Iterator[None]:
    """Keep what is fetched by a name from retrying for half a minute where nobody answers.

    What lies in the local cache is found as ever. The libraries' own warnings stay away from the
    terminal: what goes wrong is said by the error that they end with.
    """
    import datasets.config
    import huggingface_hub.constants

    places: tuple[Any, ...] = (huggingface_hub.constants, datasets.config)
    kept = [place.HF_HUB_OFFLINE for place in places]
    away = not any(kept) and not reachable()
    with silent("huggingface_hub", "datasets"):
        try:
            for place in places if away else ():
                place.HF_HUB_OFFLINE = True
            yield
        finally:
            for place, value in zip(places, kept, strict=True):
                place.HF_HUB_OFFLINE = value


@contextlib.contextmanager
def silent(*names: str) -> Iterator[None]:
    """Keep what libraries log away from the terminal."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
