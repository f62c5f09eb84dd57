"""Which tasks lmms-eval knows, by their YAML files alone: nothing of it is imported here.

A name stands for a task, or for several: a group (a file that lists tasks) or a tag (a word that
tasks carry). A user's own YAML file is read the same way.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from autoprune.errors import AutoPruneError
from autoprune.evaluation.fields import check_own
from autoprune.identity import content_hash, file_hash

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}")


class Function(str):
    """The name of a function, ``module.name``, that a YAML file calls by ``!function``."""


@dataclass(frozen=True)
class Entry:
    """What a name stands for.

    Attributes:
        name: of the task, group or tag.
        path: its YAML file; None for a tag.
        members: names of a group or tag, in order; empty for a task.
    """

    name: str
    path: Path | None
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskFile:
    """A task's YAML file, read with its includes.

    Attributes:
        path: of the file.
        config: its fields; a ``!function`` stands as text, ``module.name``.
        folders: of each field the directory of the file that it stands in, where functions lie.
    """

    path: Path
    config: Mapping[str, Any]
    folders: Mapping[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the task."""
        return str(self.config["task"])

    @property
    def metrics(self) -> list[tuple[str, bool]]:
        """Metrics that the file lists, each with whether higher is better."""
        listed = self.config.get("metric_list") or []
        named = [m for m in listed if isinstance(m, Mapping) and "metric" in m]
        return [(str(m["metric"]), m.get("higher_is_better", True) is not False) for m in named]

    @property
    def filters(self) -> list[str]:
        """Names of its filters, in order."""
        listed = self.config.get("filter_list") or []
        return [str(f["name"]) for f in listed if isinstance(f, Mapping) and "name" in f]

    @property
    def own(self) -> Mapping[str, Any]:
        """What the file says to AutoPrune: ``metadata: {autoprune: {...}}``."""
        return check_own(self._said("autoprune"), self.path)

    @property
    def tags(self) -> tuple[str, ...]:
        """Words that the task carries."""
        found = self.config.get("tag") or ()
        return (found,) if isinstance(found, str) else tuple(str(tag) for tag in found)

    @property
    def identity(self) -> str:
        """Content hash over the fields and the Python files that they name."""
        files = sorted({str(path) for path, _ in self.functions()})
        code = [file_hash(Path(path)) for path in files if Path(path).is_file()]
        return content_hash(_plain(self.config), code)

    def functions(self, keys: Collection[str] | None = None) -> list[tuple[Path, str]]:
        """Return the functions that fields (all) name: Python file and name."""
        found = []
        for key, value in self.config.items():
            if keys is None or key in keys:
                for text in _functions(value):
                    module, _, name = text.rpartition(".")
                    found.append((self.folders[key] / f"{module}.py", name))
        return found

    def _said(self, key: str) -> Any:
        said = self.config.get("metadata") or {}
        parts = said if isinstance(said, list) else [said]
        return next((p[key] for p in parts if isinstance(p, Mapping) and key in p), None)


def _loader() -> type:
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader = type("Loader", (base,), {})
    loader.add_constructor("!function", lambda self, node: Function(node.value))  # type: ignore[attr-defined]
    loader.add_multi_constructor(  # type: ignore[attr-defined]
        "!", lambda self, suffix, node: getattr(node, "value", None)
    )
    return loader


_LOADER = _loader()


def lmms_eval_folder() -> Path:
    """Return the directory of lmms-eval's tasks, without importing it.

    Raises:
        AutoPruneError: it is not installed.
    """
    found = importlib.util.find_spec("lmms_eval")
    if found is None or not found.submodule_search_locations:
        raise AutoPruneError("lmms-eval is not installed: pip install lmms-eval")
    return Path(found.submodule_search_locations[0]) / "tasks"


@lru_cache(maxsize=8)
def entries(folder: Path | None = None) -> dict[str, Entry]:
    """Return every name of a directory of YAML files; by default lmms-eval's own, in 0.2 s."""
    root = folder or lmms_eval_folder()
    found: dict[str, Entry] = {}
    tagged: dict[str, list[str]] = {}
    paths = sorted(root.rglob("*.yaml") if folder is None else root.glob("*.yaml"))
    for path in paths:
        try:
            config = read_yaml(path).config
        except AutoPruneError:
            continue  # a file that is no task; a task that is asked for is read again
        task, group = config.get("task"), config.get("group")
        if isinstance(task, list) and isinstance(group, str):
            members = tuple(m if isinstance(m, str) else "" for m in task)
            found.setdefault(group, Entry(group, path, members))
        elif isinstance(task, str):
            found.setdefault(task, Entry(task, path))
            for key in ("tag", "group"):
                words = config.get(key) or ()
                for word in (words,) if isinstance(words, str) else words:
                    tagged.setdefault(str(word), []).append(task)
    for tag, members_of in tagged.items():
        found.setdefault(tag, Entry(tag, None, tuple(members_of)))
    return found


def read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> TaskFile:
    """Read a task's YAML file with its includes; no function of it is imported.

    Raises:
        AutoPruneError: it is not there, or is no YAML mapping.
    """
    try:
        config = yaml.load(path.read_text(), Loader=_LOADER)
    except OSError as error:
        raise AutoPruneError(
            f"task file {path} cannot be read ({error.strerror or error}): name a YAML file that "
            "is there"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise AutoPruneError(f"task file {path} is not YAML:{where} {reason}: mend it") from None
    if not isinstance(config, dict):
        raise AutoPruneError(
            f"task file {path} holds no fields: write 'task: NAME' and the others of an lmms-eval "
            "task"
        )
    includes = config.pop("include", None) or []
    merged: dict[str, Any] = {}
    folders: dict[str, Path] = {}
    for name in reversed([includes] if isinstance(includes, str) else list(includes)):
        other = Path(name) if Path(name).is_file() else path.parent / name
        if other in (path, *seen):
            raise AutoPruneError(f"task file {path} includes itself: mend its include")
        base = read_yaml(other, (path, *seen))
        merged |= base.config
        folders |= base.folders
    merged |= config
    folders |= dict.fromkeys(config, path.parent)
    return TaskFile(path, merged, folders)


def task_file(path: Path) -> TaskFile:
    """Read a YAML file that has to be one task.

    Raises:
        AutoPruneError: as :func:`read_yaml`; or it names no task, no data or no answers.
    """
    found = read_yaml(path)
    name = found.config.get("task")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise AutoPruneError(
            f"task file {path} has task {name!r}: give it one name of letters, digits, '.', '_', "
            "'+' and '-'"
        )
    if "class" in found.config:
        raise AutoPruneError(
            f"task {name!r} is a Python class of lmms-eval, whose documents cannot be split: "
            "leave it out"
        )
    for key, what in (("dataset_path", "the data"), ("doc_to_text", "the question")):
        if found.config.get(key) is None:
            raise AutoPruneError(f"task file {path} has no {key}: say where {what} is")
    if not (found.config.get("test_split") or found.config.get("validation_split")):
        raise AutoPruneError(f"task file {path} has no test_split: name the split to ask")
    return found


def _functions(value: Any) -> Iterator[Function]:
    if isinstance(value, Function):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _functions(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _functions(item)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)
