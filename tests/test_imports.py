"""Imports point down the floors of the house only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "autoprune"

# Which rooms each room may import from; a room may always import from itself.
GROUND = {"errors", "identity", "amounts", "plugins", "hub"}
FLOOR_1 = GROUND | {"models", "data"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "identity": GROUND,
    "amounts": set(),
    "plugins": GROUND,
    "hub": set(),
    "models": GROUND,
    "data": GROUND | {"models"},
    "zoo": FLOOR_1,
    "cost": FLOOR_1,
    "pruning": FLOOR_1 | {"cost"},
    "recovery": FLOOR_1 | {"cost", "pruning", "resources"},
    "evaluation": FLOOR_1 | {"zoo"},
    "resources": GROUND,
    "pipeline": FLOOR_1 | {"zoo", "cost", "pruning", "recovery", "evaluation", "resources"},
    "tracking": GROUND,
    "search": FLOOR_1
    | {"zoo", "cost", "pruning", "recovery", "evaluation", "resources", "pipeline", "tracking"},
    "deploy": FLOOR_1
    | {"zoo", "cost", "pruning", "recovery", "evaluation", "resources", "pipeline", "tracking"}
    | {"search"},
    "doctor": FLOOR_1
    | {"zoo", "cost", "pruning", "recovery", "evaluation", "resources", "pipeline", "tracking"}
    | {"search"},
}
MAY_IMPORT["testing"] = MAY_IMPORT["deploy"]
MAY_IMPORT["api"] = MAY_IMPORT["deploy"] | {"deploy"}
MAY_IMPORT["cli"] = set(MAY_IMPORT) | {"__init__"}

# The largest room has floors of its own; each may import from those named before it.
SEARCH = (
    ("fronts", "knobs", "options", "patience"),
    ("sampling",),
    ("goal", "machine", "measuring", "own_data", "running"),
    ("proposals",),
    ("settings",),
    ("candidates", "exams", "fidelity", "outlook", "records"),
    ("listener", "study", "work"),
    ("campaign", "starts", "tracked"),
    ("trial", "workers"),
    ("finish", "preflight", "timed"),
    ("compare", "problem"),
    ("driver",),
)

# A search's records, of which most rooms read some.
RECORDS = (("base",), ("timing",), ("trial", "point", "terms"), ("costs",), ("summary",))

FLOORS = {"search": SEARCH, "tracking/records": RECORDS}

# The lower floors run on a bare GPU box.
BARE = {
    "errors",
    "identity",
    "amounts",
    "models",
    "data",
    "zoo",
    "cost",
    "pruning",
    "recovery",
    "resources",
}
HEAVY = {"ray", "optuna", "mlflow", "lmms_eval"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports from the package's root"
            names.add(node.module or "")
            if node.module == "autoprune":
                names.update(f"autoprune.{alias.name}" for alias in node.names)
    return names


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem != "__init__")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    assert room in MAY_IMPORT, f"{room} has no floor: give it one in MAY_IMPORT"
    for name in imported_modules(path):
        head, *rest = name.split(".")
        if head == "autoprune" and rest:
            assert rest[0] == room or rest[0] in MAY_IMPORT[room] or rest[0] == "__version__", (
                f"{room} may not import {name}"
            )
        if room in BARE:
            assert head not in HEAVY, f"{room} must run on a bare GPU box, but imports {head}"


def modules_of(package: str) -> list[Path]:
    """Every module below a package but its own ``__init__``."""
    folder = PACKAGE / package
    return sorted(p for p in folder.rglob("*.py") if p != folder / "__init__.py")


@pytest.mark.parametrize(
    ("package", "path"),
    [(package, path) for package in FLOORS for path in modules_of(package)],
    ids=lambda value: str(value.relative_to(PACKAGE)) if isinstance(value, Path) else value,
)
def test_a_room_has_floors_of_its_own(package: str, path: Path) -> None:
    floor_of = {name: floor for floor, names in enumerate(FLOORS[package]) for name in names}
    here = path.relative_to(PACKAGE / package).parts[0].removesuffix(".py")
    assert here in floor_of, f"{package}/{here} has no floor: give it one in FLOORS"
    inside = ["autoprune", *package.split("/")]
    for name in imported_modules(path):
        parts = name.split(".")
        if parts == inside or parts[: len(inside)] != inside:
            continue
        there = parts[len(inside)]
        assert there == here or floor_of[there] < floor_of[here], (
            f"{package}/{here} may not import {name}"
        )
