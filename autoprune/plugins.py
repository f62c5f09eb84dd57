"""Tables that other packages can add rows to, by entry points.

A package that declares, in its ``pyproject.toml``::

    [project.entry-points."autoprune.criteria"]
    mine = "my_package.importance:mine"

adds the row ``mine`` to the table of importance criteria. A row is imported when it is first
asked for, so that a plug-in costs nothing where it is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from autoprune.errors import AutoPruneError

CRITERIA = "autoprune.criteria"
LOSSES = "autoprune.losses"
SAMPLERS = "autoprune.samplers"
COST_MODELS = "autoprune.cost_models"

Row = TypeVar("Row")


class Table(Mapping[str, Row], Generic[Row]):
    """Rows by name: our own, then those of other packages' entry points.

    Args:
        group: of the entry points.
        own: our own rows; no plug-in takes their names.
        fits: whether an object is a row.
        wanted: what a row is, in words, for the line that refuses another.
    """

    def __init__(
        self, group: str, own: Mapping[str, Row], fits: Callable[[object], bool], wanted: str
    ) -> None:
        self.group = group
        self.own = dict(own)
        self._fits, self._wanted = fits, wanted
        self._loaded: dict[str, Row] = {}

    def __getitem__(self, name: str) -> Row:
        """Return a row; imports the package of a plug-in.

        Raises:
            KeyError: for an unknown name.
            AutoPruneError: for a plug-in that does not load, or is no such row.
        """
        if name in self.own:
            return self.own[name]
        if name not in self._loaded:
            self._loaded[name] = self._load(_found(self.group)[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from plugin_names(self.group)

    def __len__(self) -> int:
        return len(self.own) + len(plugin_names(self.group))

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in _found(self.group)

    def _load(self, point: EntryPoint) -> Row:
        try:
            row = point.load()
        except Exception as error:  # whatever a package raises as it is imported
            raise AutoPruneError(
                f"{_where(point)} does not load ({type(error).__name__}: {error}): mend or "
                "uninstall that package"
            ) from error
        if not self._fits(row):
            raise AutoPruneError(
                f"{_where(point)} is a {type(row).__name__}, and {self._wanted} is wanted: mend "
                "that package"
            )
        return row  # type: ignore[no-any-return]


def plugin_names(group: str) -> tuple[str, ...]:
    """Return the names that other packages add to a table; imports none of them."""
    return tuple(_found(group))


@cache
def _found(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name.

    Raises:
        AutoPruneError: where two packages add one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        if point.name in found and point.value != found[point.name].value:
            raise AutoPruneError(
                f"{_where(point)} and {_where(found[point.name])} have one name: uninstall one"
            )
        found[point.name] = point
    return found


def _where(point: EntryPoint) -> str:
    package = f" of package {point.dist.name}" if point.dist is not None else ""
    return f"{point.group} {point.name!r}{package}"
