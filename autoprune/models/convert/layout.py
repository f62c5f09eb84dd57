"""What a layout is: facts about a checkpoint that its authors published in their own form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.errors import AutoPruneError
from autoprune.models.files import TensorHeader, read_json

DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


@dataclass(frozen=True)
class Source:
    """A checkpoint as it was published: its directory, ``config.json`` and tensors."""

    directory: Path
    config: Mapping[str, Any]
    headers: Mapping[str, TensorHeader]

    @property
    def dtype(self) -> str:
        """Name of the torch dtype that most of the weights have."""
        kinds = [header.dtype for header in self.headers.values()]
        common = max(sorted(set(kinds)), key=kinds.count)
        if common not in DTYPES:
            raise AutoPruneError(
                f"the weights in {self.directory} are {common}: convert the float16, bfloat16 or "
                "float32 ones"
            )
        return DTYPES[common]


@dataclass(frozen=True)
class Rule:
    """Where a tensor goes.

    Attributes:
        pattern: of the whole original name; the names of transformers may refer to its groups.
        targets: names in the transformers model; several share the tensor in equal parts along
            its first axis, none means that it holds no weight.
    """

    pattern: str
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Requirement:
    """A field of the original configuration that the conversion takes in some values only.

    Attributes:
        field: its name; dots lead into nested objects.
        allowed: the values that can be converted.
        default: what a missing field means.
        why: what the others would need, as a clause.
    """

    field: str
    allowed: tuple[Any, ...]
    default: Any
    why: str


@dataclass(frozen=True)
class Built:
    """Everything but the weights.

    Attributes:
        config: of the transformers model.
        processor: with tokenizer and chat template.
        generation: fields of the generation configuration.
        rows: names of embedding tables and how many rows they get where the original has fewer.
        notes: what was taken from elsewhere than the original files, and what a user should
            know; sentences.
    """

    config: Any
    processor: Any
    generation: Mapping[str, Any]
    rows: Mapping[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """One way of publishing a model.

    Attributes:
        model_type: in the original ``config.json``.
        example: the published model that it is known from.
        model_class: name of the transformers class.
        rules: the first one that fits a tensor's name is used.
        saved_as: prefixes of names in memory and how checkpoints on disk call them.
        requirements: checked before anything else.
        build: makes configuration and processor.
    """

    model_type: str
    example: str
    model_class: str
    rules: tuple[Rule, ...]
    saved_as: tuple[tuple[str, str], ...]
    requirements: tuple[Requirement, ...]
    build: Callable[[Source], Built]

    def saved_name(self, name: str) -> str:
        """Return what a tensor of the model is called on disk."""
        for prefix, saved in self.saved_as:
            if name.startswith(prefix):
                return saved + name.removeprefix(prefix)
        return name


def check_requirements(source: Source, requirements: tuple[Requirement, ...]) -> None:
    """Check that a configuration asks for nothing that the conversion cannot do.

    Raises:
        AutoPruneError: naming the first field and its value.
    """
    for need in requirements:
        value: Any = source.config
        for part in need.field.split("."):
            value = value.get(part, need.default) if isinstance(value, Mapping) else need.default
        if value not in need.allowed:
            allowed = " or ".join(repr(item) for item in need.allowed)
            raise AutoPruneError(
                f"{source.directory / 'config.json'} says {need.field} = {value!r}, {need.why}: "
                f"only {allowed} can be converted"
            )


TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
"""Sizes that an original text configuration has to state."""


def required(source: Source, fields: tuple[str, ...], within: str = "") -> dict[str, Any]:
    """Return fields of a configuration that have no default.

    Args:
        source: the checkpoint.
        fields: their names.
        within: the nested object that holds them.

    Raises:
        AutoPruneError: naming the first that is missing.
    """
    values = source.config.get(within) if within else source.config
    if not isinstance(values, Mapping):
        raise AutoPruneError(
            f"{source.directory / 'config.json'} lacks {within}: use the config.json that belongs "
            "to these weights"
        )
    for field in fields:
        if values.get(field) is None:
            where = f"{within}.{field}" if within else field
            raise AutoPruneError(
                f"{source.directory / 'config.json'} lacks {where}: use the config.json that "
                "belongs to these weights"
            )
    return {field: values[field] for field in fields}


def generation_of(source: Source) -> dict[str, Any]:
    """Return the fields of a checkpoint's ``generation_config.json``; none if it has no such file.

    Raises:
        AutoPruneError: if the file is no JSON object.
    """
    path = source.directory / "generation_config.json"
    if not path.is_file():
        return {}
    return {
        name: value
        for name, value in read_json(path).items()
        if not name.startswith("_") and name != "transformers_version"
    }
