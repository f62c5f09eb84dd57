"""What a format is: what it can hold, and how a checkpoint is written in it and proved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from autoprune.deploy.readme import Loading
from autoprune.errors import AutoPruneError

Stage = Callable[[str], None]


@dataclass(frozen=True)
class Outline:
    """What is known of a model before it is made.

    Attributes:
        name: as a user names it: ``demo:7``, or a directory.
        config: its configuration.
        precision: of its weights.
        directory: where its processor and tokenizer lie.
    """

    name: str
    config: Any
    precision: str
    directory: Path


@dataclass(frozen=True)
class Written:
    """What was written and proved.

    Attributes:
        loading: how it is loaded.
        proved: what a fresh process found; sentences.
        figures: the same in numbers.
    """

    loading: Loading
    proved: tuple[str, ...]
    figures: Mapping[str, float]


def require_libraries(name: str, packages: Mapping[str, str]) -> None:
    """Check that what a format needs is installed.

    Args:
        name: of the format, and of the package's extra.
        packages: by the module that is imported.

    Raises:
        AutoPruneError: names what is missing.
    """
    if missing := [package for module, package in packages.items() if find_spec(module) is None]:
        raise AutoPruneError(
            f"format {name} needs {', '.join(missing)}, not installed here: pip install "
            f"'autoprune[{name}]'"
        )


class Format(Protocol):
    """A format other than a Hugging Face checkpoint, which everything is made from.

    :meth:`check` is called before any work, :meth:`write` once, with a checkpoint that passed.
    """

    name: str

    def check(self, outline: Outline) -> None:
        """Check that the format can hold a model, and that its libraries are installed.

        Raises:
            AutoPruneError: it cannot; names what it is and the mend.
        """

    def write(self, checkpoint: Path, work: Path, on_stage: Stage) -> Written:
        """Write a checkpoint into ``work`` and prove it in a fresh process.

        Raises:
            AutoPruneError: the proof failed.
        """
