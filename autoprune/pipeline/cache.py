"""Results that cost time, kept by content: equal inputs and equal code find them again."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from autoprune.identity import content_hash, file_hash

T = TypeVar("T")

# What a cached result may depend on; an edit of any of it makes the result unknown again.
_FLOORS = ("models", "data", "zoo", "cost", "pruning", "recovery", "evaluation", "pipeline")
_MODULES = ("resources.py", "identity.py", "plugins.py", "hub.py")


class Cache:
    """A folder of pickled results. Only AutoPrune writes there, and only for itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, stage: str, inputs: Any, compute: Callable[[], T]) -> T:
        """Return the result of ``stage`` on ``inputs``, computed at most once.

        A file that cannot be read (cut off, of other library versions) is computed anew.
        """
        path = self.folder / f"{stage}-{content_hash(stage, inputs, code_identity())}.pkl"
        try:
            with path.open("rb") as stream:
                return pickle.load(stream)
        except FileNotFoundError:
            pass
        except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError):
            path.unlink(missing_ok=True)
        result = compute()
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=".writing-")
        with os.fdopen(handle, "wb") as stream:
            pickle.dump(result, stream, protocol=5)
        Path(name).replace(path)
        return result


def code_files(package: Path) -> list[Path]:
    """Return the files of the package that results depend on."""
    rooms = (path for floor in _FLOORS for path in (package / floor).rglob("*.py"))
    return sorted([*rooms, *(package / name for name in _MODULES)])


@lru_cache(maxsize=1)
def code_identity() -> str:
    """Return a hash of the code and library versions that results depend on."""
    import torch
    import transformers

    package = Path(str(resources.files("autoprune")))
    return content_hash(
        {str(path.relative_to(package)): file_hash(path) for path in code_files(package)},
        torch.__version__,
        transformers.__version__,
    )
