"""AutoPrune: search-based compression of vision-language models.

What the commands do, from Python::

    import autoprune

    summary = autoprune.search(budget="60%", trials=24, name="demo")
    autoprune.export(f"demo:{summary.front[0].trial}", "smaller-model")

``search``, ``prune``, ``recover``, ``evaluate``, ``pick`` and ``export`` have the names and the
defaults of the command line.
"""

from __future__ import annotations

import logging
from types import ModuleType
from typing import TYPE_CHECKING, Any

import autoprune.search as _search_package

if TYPE_CHECKING:
    from autoprune.api import (
        SearchOptions,
        SmallerModel,
        evaluate,
        export,
        pick,
        prune,
        recover,
        search,
    )

# torchao 0.18, which transformers imports with the first model, registers enums in a way that
# torch 2.15 warns of on stderr, in every process.
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)

__version__ = "0.1.0"

__all__ = [
    "SearchOptions",
    "SmallerModel",
    "__version__",
    "evaluate",
    "export",
    "pick",
    "prune",
    "recover",
    "search",
]


class _Callable(ModuleType):
    """The package of the search, which can be called as the function of its name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from autoprune import api

        return api.search(*args, **options)


# Importing any module of the package binds ``autoprune.search`` to it, whatever stood there.
_search_package.__class__ = _Callable


def __getattr__(name: str) -> Any:
    """Return a function of the library; torch and the rest are imported with the first."""
    if name in __all__:
        from autoprune import api

        return getattr(api, name)
    raise AttributeError(f"module 'autoprune' has no attribute {name!r}")
