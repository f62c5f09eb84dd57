"""The knob space: which knobs a search samples, and from where; read from YAML.

A space file names each knob with a range, a list of choices, or one fixed value. Only knobs
that ``decode`` understands (``KNOBS``) are accepted, within the bounds that make sense.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.search.knobs.table import KNOBS, RATIOS, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

BY_OPTION = {"precision": "--quantize"}
"""Knobs that a space file leaves to an option, since more than sampling depends on them."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Range(_Strict):
    """Numbers from ``low`` to ``high``, both included; with ``step`` only those on its grid."""

    low: float
    high: float
    log: bool = False
    integer: bool = False
    step: float | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"empty range: low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range needs low above 0, not {self.low:g}")
        if self.step is not None:
            steps = (self.high - self.low) / self.step if self.step > 0 else 0.5
            if self.log or self.integer or not math.isclose(steps, round(steps), abs_tol=1e-6):
                raise ValueError(
                    f"step {self.step:g} must divide {self.low:g} to {self.high:g} into equal "
                    "parts, in a range that is neither log nor integer"
                )
        return self

    def values(self) -> tuple[Value, ...]:
        """Return the ends, which the knob's bounds are checked on."""
        return (self.low, self.high)

    def describe(self) -> str:
        """Return the range as a reader writes it."""
        step = "" if self.step is None else f" by {self.step:g}"
        return f"{self.low:g} … {self.high:g}" + step + (" (log)" if self.log else "")

    def distribution(self) -> BaseDistribution:
        """Return the range as Optuna draws it."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


class Choice(_Strict):
    """One of a list of values without an order."""

    choices: tuple[Value, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Choice:
        if len({repr(c) for c in self.choices}) != len(self.choices):
            raise ValueError(f"a choice is named twice in {list(self.choices)}")
        return self

    def values(self) -> tuple[Value, ...]:
        """Return the choices."""
        return self.choices

    def describe(self) -> str:
        """Return the choices as a reader writes them."""
        return " | ".join(str(c) for c in self.choices)

    def distribution(self) -> BaseDistribution:
        """Return the choices as Optuna draws them."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.choices)


class Space(_Strict):
    """A named knob space, and the shares of a recovery at which trials are compared."""

    name: str
    description: str
    knobs: dict[str, Range | Choice]
    rungs: tuple[float, ...] = (0.0, 0.33, 1.0)

    @model_validator(mode="after")
    def _known_knobs(self) -> Space:
        for name, domain in self.knobs.items():
            if name not in KNOBS:
                raise ValueError(f"unknown knob {name!r}{did_you_mean(name, KNOBS)}")
            knob = KNOBS[name]
            if isinstance(domain, Range) and knob.names:
                raise ValueError(f"knob {name!r} takes names, not a range: {list(knob.names)}")
            for value in domain.values():
                if problem := knob.check(value):
                    raise ValueError(f"knob {name!r}: {problem}")
        if {"size", "backbone_removed"} <= set(self.knobs):
            raise ValueError("knob 'backbone_removed' takes the place of 'size': leave one out")
        named = [name for name in RATIOS if name in self.knobs]
        if named != list(RATIOS[: len(named)]):
            raise ValueError(f"knobs {named} leave a run of layers out: number them from ratio_1")
        if list(self.rungs) != sorted(set(self.rungs)) or self.rungs[0] != 0 or self.rungs[-1] != 1:
            raise ValueError(f"rungs must rise from 0 to 1, not {list(self.rungs)}")
        return self

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the sampled knobs as Optuna draws them; fixed ones are left out."""
        return {
            name: domain.distribution()
            for name, domain in self.knobs.items()
            if len(domain.values()) > 1
        }

    def complete(self, sampled: Mapping[str, Value]) -> dict[str, Value]:
        """Return a value for every knob: the sampled, the space's fixed, or the default.

        Knobs without a default are there where the space or ``sampled`` has them.

        Raises:
            AutoPruneError: for a knob or value that no space may hold.
        """
        knobs: dict[str, Value] = {
            name: knob.default for name, knob in KNOBS.items() if knob.default is not None
        }
        for name, domain in self.knobs.items():
            if len(domain.values()) == 1:
                knobs[name] = domain.values()[0]
        for name, value in sampled.items():
            if name not in KNOBS:
                raise AutoPruneError(f"unknown knob {name!r}{did_you_mean(name, KNOBS)}")
            if problem := KNOBS[name].check(value):
                raise AutoPruneError(f"knob {name!r}: {problem}")
            knobs[name] = value
        return knobs


def with_precisions(space: Space, precisions: Sequence[str]) -> Space:
    """Return a space in which the finished weights have one of ``precisions``."""
    if tuple(precisions) == (KNOBS["precision"].default,):
        return space
    return with_knobs(space, {"precision": Choice(choices=tuple(precisions))})


def with_knobs(space: Space, knobs: Mapping[str, Range | Choice]) -> Space:
    """Return a space in which some knobs have other domains."""
    return space.model_copy(update={"knobs": {**space.knobs, **knobs}})


def parse_space(text: str, name: str) -> Space:
    """Read a space from YAML text.

    Raises:
        AutoPruneError: one line naming the key, the value and what is allowed.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise AutoPruneError(
            f"space {name} is not readable YAML{line}: mend it, or start from what "
            "'autoprune spaces hybrid --yaml' prints"
        ) from None
    if not isinstance(data, dict):
        raise AutoPruneError(f"space {name} must be a mapping with description, knobs and rungs")
    knobs = data.get("knobs")
    if isinstance(knobs, dict):
        for key, option in BY_OPTION.items():
            if key in knobs:
                raise AutoPruneError(
                    f"space {name}: knob {key!r} is set by {option}; take it out of the file"
                )
        data["knobs"] = {key: _domain(value, f"{name}: knob {key}") for key, value in knobs.items()}
    try:
        return Space.model_validate({"name": name, **data})
    except ValidationError as error:
        raise AutoPruneError(f"space {name}: {_first_problem(error)}") from None


def space_text(name_or_path: str) -> str:
    """Return a space as the YAML that :func:`load_space` reads back: its file, with comments.

    A file takes the name of the space from its own name, so none stands in it.

    Raises:
        AutoPruneError: as :func:`load_space`.
    """
    space = load_space(name_or_path)
    path = list_spaces().get(name_or_path, Path(name_or_path))
    if path.suffix != ".json":
        return path.read_text()
    plain = {
        "description": space.description,
        "rungs": list(space.rungs),
        "knobs": {name: _plain(domain) for name, domain in space.knobs.items()},
    }
    return yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, allow_unicode=True)


def _plain(domain: Range | Choice) -> Any:
    """Return a domain as a space file has it; the inverse of :func:`_domain`."""
    if isinstance(domain, Range):
        return domain.model_dump(mode="json", exclude_defaults=True)
    return list(domain.choices) if len(domain.choices) > 1 else domain.choices[0]


def _parse_kept(text: str, path: str) -> Space:
    """Read a space as ``model_dump_json`` writes it."""
    try:
        return Space.model_validate_json(text)
    except ValidationError as error:
        raise AutoPruneError(f"space {path}: {_first_problem(error)}") from None


def _domain(value: Any, where: str) -> Range | Choice:
    """Read a range, a list of choices, or one fixed value."""
    shape: type[Range | Choice] = Range
    if not isinstance(value, dict):
        shape, value = Choice, {"choices": value if isinstance(value, list) else [value]}
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise AutoPruneError(f"space {where}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where!r}; take it out"
    if isinstance(problem["input"], (str, int, float)):
        message = f"{problem['input']!r}: {message}"
    return f"{where}: {message}" if where else message


def space_dir() -> Path:
    """Return the folder of the spaces that come with the package."""
    return Path(str(resources.files("autoprune"))) / "search_spaces"


def list_spaces() -> dict[str, Path]:
    """Return the spaces that come with the package, by name."""
    return {path.stem: path for path in sorted(space_dir().glob("*.yaml"))}


def load_space(name_or_path: str) -> Space:
    """Load a space by its name, from a YAML file, or from the JSON that a search keeps.

    Raises:
        AutoPruneError: for an unknown name (says the nearest), a file that is not there,
            or a file that is not a space.
    """
    known = list_spaces()
    if name_or_path in known:
        return parse_space(known[name_or_path].read_text(), name_or_path)
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml", ".json"):
        if not path.is_file():
            raise AutoPruneError(f"space file {name_or_path!r} does not exist; check the path")
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise AutoPruneError(f"space file {name_or_path!r} cannot be read: {error}") from None
        if path.suffix == ".json":
            return _parse_kept(text, name_or_path)
        return parse_space(text, path.stem)
    raise AutoPruneError(f"unknown space {name_or_path!r}{did_you_mean(name_or_path, known)}")
