"""The settings of a search that say which data of the user's it recovers on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from autoprune.data.sources.spec import parse_columns, parse_source
from autoprune.data.splits import DataSpec
from autoprune.errors import AutoPruneError


class DataSettings(BaseModel):
    """What is read of a user's data; part of ``SearchSettings``."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    data: tuple[str, ...] = Field(
        (),
        description="Recover on data of your own: a LLaVA JSON or JSONL file, a parquet file, a "
        "saved data set or a hub name, each with =WEIGHT where it is to be a share of the mix; "
        "may be repeated.",
    )
    images: str | None = Field(
        None, description="Folder that image paths of --data start from; by default the file's own."
    )
    columns: tuple[str, ...] = Field(
        (),
        description="Columns of --data: image=img,question=prompt,answer=label, or "
        "conversations=chat.",
    )
    max_length: int | None = Field(
        None,
        description="Most tokens of a sample of --data: a longer one is cut behind its last whole "
        "turn that fits, or left out; by default what the model was made for.",
    )
    data_identity: str = Field("", description="Content hash of --data, found when it is read.")

    @field_validator("data")
    @classmethod
    def _sources(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Write files with their whole path: a search is resumed from anywhere."""
        return tuple(_whole(text) for text in value)

    @field_validator("images")
    @classmethod
    def _folder(cls, value: str | None) -> str | None:
        return value and str(Path(value).expanduser().absolute())

    @field_validator("columns")
    @classmethod
    def _columns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parse_columns(value)
        return value

    @field_validator("max_length")
    @classmethod
    def _length(cls, value: int | None) -> int | None:
        if value is not None and value < 1:
            raise AutoPruneError(f"--max-length {value} is below 1: give 1 or more")
        return value

    @model_validator(mode="after")
    def _of_data(self) -> DataSettings:
        """Refuse what says how data is read where there is none; read the rest for its content."""
        if not self.data:
            for name in ("images", "columns", "max_length"):
                if (value := getattr(self, name)) not in (None, ()):
                    said = ",".join(value) if isinstance(value, tuple) else value
                    raise AutoPruneError(
                        f"--{name.replace('_', '-')} {said} says how --data is read: name some "
                        "--data, or leave it out"
                    )
        elif not self.data_identity:
            found = _found(self.data, self.images, self.columns)
            object.__setattr__(self, "data_identity", found)
        return self

    @property
    def data_spec(self) -> DataSpec | None:
        """The data as a value; None for the embedded one."""
        if not self.data:
            return None
        return DataSpec(
            sources=tuple(parse_source(ref) for ref in self.data),
            images=self.images,
            columns=parse_columns(self.columns),
            max_length=self.max_length,
            identity=self.data_identity,
        )


def _whole(text: str) -> str:
    """Return a source as typed, with the whole path of what lies on this machine."""
    ref = parse_source(text).ref
    path = Path(ref).expanduser()
    return f"{path.absolute()}{text.removeprefix(ref)}" if path.exists() else text


def read_spec(
    data: Sequence[str], images: str | None = None, columns: Sequence[str] = ()
) -> DataSpec | None:
    """Look data through that was named as for a search; None where none is.

    Args:
        data: ``PATH`` or ``PATH=WEIGHT``, or names of data sets.
        images: folder that image paths start from.
        columns: ``NAME=COLUMN``.

    Raises:
        AutoPruneError: the first thing that is wrong with it.
    """
    return DataSettings(
        data=tuple(data),
        images=images,
        columns=tuple(columns),
        max_length=None,
        data_identity="",
    ).data_spec


def _found(refs: tuple[str, ...], images: str | None, columns: tuple[str, ...]) -> str:
    """Look the data through, and return what it holds as a hash."""
    from autoprune.data.sources.user import read_data

    return read_data(refs, images, columns).identity
