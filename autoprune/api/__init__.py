"""The library: what the commands do, as functions of the same names with the same defaults."""

from autoprune.api.deliver import evaluate, export, pick
from autoprune.api.model import SmallerModel, prune, recover
from autoprune.api.options import SearchOptions
from autoprune.api.run import search

__all__ = [
    "SearchOptions",
    "SmallerModel",
    "evaluate",
    "export",
    "pick",
    "prune",
    "recover",
    "search",
]
