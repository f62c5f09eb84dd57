"""What every record is: frozen, closed, JSON in and out."""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from autoprune.errors import AutoPruneError

Knob = bool | int | float | str | None


def _finite_or_none(value: Any) -> Any:
    """A figure that is not a number is no figure: JSON has no NaN, and no plot can hold one."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite_or_none)]


class Record(BaseModel):
    """Base of every record: frozen, closed, JSON in and out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the record as JSON text."""
        return self.model_dump_json(indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a record.

        Raises:
            AutoPruneError: the text is not a record of this kind (names the first bad field).
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "text"
            raise AutoPruneError(
                f"{where} of this {cls.__name__} is not readable ({first['msg']})"
            ) from error


def trial_name(trial: int) -> str:
    """Return `trial-0007` for 7."""
    return f"trial-{trial:04d}"
