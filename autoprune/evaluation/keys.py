"""Which tasks ask a judge, and so need a key: read off the Python files that tasks are made of.

lmms-eval's tasks do not declare it. Their functions read an environment variable such as
``OPENAI_API_KEY`` as their module is imported, or ask ``lmms_eval.llm_judge`` for a server; but a
module often holds several tasks, of which only some are judged. So names are followed from the
functions that a task calls, and what is not reached does not count. No code is run.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from autoprune.errors import AutoPruneError
from autoprune.evaluation.catalogue import lmms_eval_folder, read_yaml
from autoprune.evaluation.tasks import BENCHMARKS, TaskSpec

KEY = re.compile(r"[A-Z][A-Z0-9_]*(?:API_KEY|ACCESS_KEY|API_TOKEN|_SECRET)")
"""Environment variables that hold a key."""

JUDGES = ("lmms_eval.llm_judge", "openai", "anthropic", "google.generativeai")
"""Modules by which a judge is asked."""

FIRST = ("OPENAI_API_KEY", "AZURE_API_KEY")
"""Keys of the judges that lmms-eval asks unless told otherwise."""

_FIELDS = ("process_results", "doc_to_text", "doc_to_visual", "process_docs")


def check_key(spec: TaskSpec) -> None:
    """Refuse a task that is judged by a model whose key is not set.

    Raises:
        AutoPruneError: it names the variables.
    """
    found = keys_of(spec)
    if found and not any(os.environ.get(name) for name in found):
        first, *rest = found
        others = f" (or {', '.join(rest[:2])})" if rest else ""
        raise AutoPruneError(
            f"task {spec.name!r} is judged by another model, which needs a key: set {first}"
            f"{others}, or choose another task"
        )


def keys_of(spec: TaskSpec) -> list[str]:
    """Return the variables of which one must be set to score a task; none if it needs no judge."""
    if not spec.source and spec.name in {known.name for known in BENCHMARKS}:
        return []  # known to be scored without, though their modules can ask one
    file = read_yaml(spec.path)
    called = file.functions(_FIELDS)
    for metric in file.config.get("metric_list") or []:
        if isinstance(metric, dict) and metric.get("metric") in spec.metrics:
            called += _aggregation(file.path, file.folders["metric_list"], metric)
    keys: set[str] = set()
    seen: set[tuple[Path, str]] = set()
    for path, name in called:
        keys |= _reached(path, name, seen)
    order = {name: place for place, name in enumerate(FIRST)}
    return sorted(keys, key=lambda name: (order.get(name, len(order)), name))


def _aggregation(path: Path, folder: Path, metric: dict[str, object]) -> list[tuple[Path, str]]:
    named = metric.get("aggregation")
    if not isinstance(named, str) or "." not in named:
        return []
    module, _, name = named.rpartition(".")
    return [(folder / f"{module}.py", name)]


def _reached(path: Path, name: str, seen: set[tuple[Path, str]]) -> set[str]:
    """Return the keys that a name of a module leads to."""
    if (path, name) in seen:
        return set()
    seen.add((path, name))
    module = _module(path)
    if module is None:
        return set()
    found = set(module.keys.get(name, ()))
    if name in module.imported:
        source, original = module.imported[name]
        if source.startswith(JUDGES):
            return found | set(FIRST)
        other = _file_of(source, path)
        if other is not None:
            found |= _reached(other, original, seen)
    for used in module.uses.get(name, ()):
        found |= _reached(path, used, seen)
    return found


class _Module:
    """What the top level of a Python file defines, and what each definition uses."""

    def __init__(self, tree: ast.Module) -> None:
        self.imported: dict[str, tuple[str, str]] = {}
        self.uses: dict[str, set[str]] = {}
        self.keys: dict[str, set[str]] = {}
        for node in _top(tree.body):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    name = alias.asname or alias.name
                    self.imported[name] = ("." * node.level + node.module, alias.name)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    self.imported[alias.asname or alias.name.split(".")[0]] = (alias.name, "")
            else:
                for name in _defined(node):
                    self._note(name, node)

    def _note(self, name: str, node: ast.AST) -> None:
        used, keys = set(), set()
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load):
                used.add(inner.id)
            elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                keys |= {inner.value} if KEY.fullmatch(inner.value) else set()
            elif isinstance(inner, ast.ImportFrom) and (inner.module or "").startswith(JUDGES):
                keys |= set(FIRST)
        self.uses.setdefault(name, set()).update(used - {name})
        self.keys.setdefault(name, set()).update(k for k in keys if not k.startswith("YOUR_"))


def _top(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, those under conditions too."""
    for node in body:
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from _top(node.body)
            yield from _top(getattr(node, "orelse", []))
            for handler in getattr(node, "handlers", []):
                yield from _top(handler.body)
        else:
            yield node


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = list(node.targets)
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]


@lru_cache(maxsize=256)
def _module(path: Path) -> _Module | None:
    try:
        return _Module(ast.parse(path.read_text()))
    except (OSError, SyntaxError, ValueError):
        return None  # what is wrong with it is said when it is loaded


def _file_of(module: str, beside: Path) -> Path | None:
    """Return the file of a module of lmms-eval, or of one beside a file."""
    name = module.lstrip(".")
    place = beside.parent.joinpath(*name.split("."))
    if name.startswith("lmms_eval."):
        place = lmms_eval_folder().parent.joinpath(*name.split(".")[1:])
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)
