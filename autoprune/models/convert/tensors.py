"""Renaming and splitting the tensors of a checkpoint, one shard in memory at a time."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from autoprune.errors import AutoPruneError
from autoprune.models.convert.layout import DTYPES, Layout, Rule, Source

_BYTES = {"F16": 2, "BF16": 2, "F32": 4}


@dataclass(frozen=True)
class Target:
    """One tensor of the transformers model and where its values come from.

    Attributes:
        name: in the model in memory.
        source: the original tensor.
        part: which of ``parts`` equal parts of its first axis.
        parts: how many it is split into.
        shape: of this part.
        rows: entries of the first axis that are written; those beyond ``shape`` are new.
        dtype: as safetensors calls it.
    """

    name: str
    source: str
    part: int
    parts: int
    shape: tuple[int, ...]
    rows: int
    dtype: str

    @property
    def written(self) -> tuple[int, ...]:
        """The shape that is written."""
        return (self.rows, *self.shape[1:])

    @property
    def nbytes(self) -> int:
        """Bytes that are written."""
        return prod(self.written) * _BYTES[self.dtype]


def plan_tensors(source: Source, layout: Layout, rows: Mapping[str, int]) -> list[Target]:
    """Say where every tensor of a checkpoint goes, from the files' headers alone.

    Raises:
        AutoPruneError: for a tensor that has no place, is of another type or cannot be split.
    """
    targets: list[Target] = []
    for name, header in source.headers.items():
        names = _renamed(name, layout.rules)
        if names is None:
            raise AutoPruneError(
                f"{source.directory} holds {name}, for which the layout {layout.model_type} has no "
                "place: use the checkpoint as its authors published it"
            )
        if names and header.dtype not in DTYPES:
            raise AutoPruneError(
                f"{name} in {header.file} is {header.dtype}: convert the float16, bfloat16 or "
                "float32 weights"
            )
        if len(names) > 1 and (not header.shape or header.shape[0] % len(names)):
            raise AutoPruneError(
                f"{name} in {header.file} has shape {list(header.shape)}, which does not split "
                f"into {len(names)}: copy the shards of one checkpoint"
            )
        for part, target in enumerate(names):
            shape = header.shape
            if len(names) > 1:
                shape = (shape[0] // len(names), *shape[1:])
            first = shape[0] if shape else 1
            row = Target(target, name, part, len(names), shape, first, header.dtype)
            wanted = rows.get(target, 0)
            targets.append(replace(row, rows=wanted) if wanted > first else row)
    return targets


def check_plan(source: Source, targets: Sequence[Target], model: Any) -> None:
    """Check that the tensors are exactly those of the model, by name and shape.

    Args:
        source: the checkpoint.
        targets: from :func:`plan_tensors`.
        model: of the converted configuration, on the meta device.

    Raises:
        AutoPruneError: naming the first tensor that is left over, of another shape or missing.
    """
    config = source.directory / "config.json"
    wanted = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    mend = "use the config.json that belongs to these weights"
    for target in targets:
        if target.name not in wanted:
            raise AutoPruneError(
                f"{source.directory} holds {target.source}, for which its config.json has no "
                f"place: {mend}"
            )
        if wanted[target.name] != target.written:
            shape, given = list(source.headers[target.source].shape), list(target.written)
            gives = "" if given == shape else f", which gives {given},"
            raise AutoPruneError(
                f"{target.source} has shape {shape}{gives} where {config} asks for "
                f"{list(wanted[target.name])}: {mend}"
            )
    if lost := sorted(set(wanted) - {target.name for target in targets}):
        raise AutoPruneError(
            f"{source.directory} holds no tensor that becomes {lost[0]}, which its config.json "
            f"asks for: {mend}"
        )


def shards_of(targets: Sequence[Target], limit: int) -> list[list[Target]]:
    """Group tensors into shards of at most ``limit`` bytes, in the order given."""
    shards: list[list[Target]] = []
    room = 0
    for target in targets:
        if not shards or target.nbytes > room:
            shards.append([])
            room = limit
        shards[-1].append(target)
        room -= target.nbytes
    return shards


def write_shards(
    source: Source,
    layout: Layout,
    shards: Sequence[Sequence[Target]],
    out: Path,
    on_shard: Callable[[int], None],
) -> dict[str, str]:
    """Write the tensors as safetensors, with an index where there are several files.

    Args:
        source: the checkpoint that they are read from.
        layout: says what they are called on disk.
        shards: from :func:`shards_of`.
        out: an existing directory.
        on_shard: called before each shard with its place.

    Returns:
        A digest of each tensor's values, by its name in the model.
    """
    weight_map: dict[str, str] = {}
    digests: dict[str, str] = {}
    for place, shard in enumerate(shards):
        on_shard(place)
        file = "model.safetensors"
        if len(shards) > 1:
            file = f"model-{place + 1:05d}-of-{len(shards):05d}.safetensors"
        tensors: dict[str, torch.Tensor] = {}
        for target, tensor in _read(source, shard):
            digests[target.name] = digest(tensor)
            tensors[layout.saved_name(target.name)] = tensor
        save_file(tensors, out / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file))
    if len(shards) > 1:
        total = sum(target.nbytes for shard in shards for target in shard)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return digests


def digest(tensor: torch.Tensor) -> str:
    """Return a hash of a tensor's bytes; ``prove_load`` computes the same."""
    data = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.blake2b(data.data, digest_size=16).hexdigest()


def _renamed(name: str, rules: Sequence[Rule]) -> tuple[str, ...] | None:
    for rule in rules:
        if match := re.fullmatch(rule.pattern, name):
            return tuple(match.expand(target) for target in rule.targets)
    return None


def _read(source: Source, shard: Sequence[Target]) -> Iterator[tuple[Target, torch.Tensor]]:
    """Yield each tensor of a shard with its values in memory of its own."""
    files: dict[Path, list[Target]] = {}
    for target in shard:
        files.setdefault(source.headers[target.source].file, []).append(target)
    for path, targets in files.items():
        with safe_open(path, framework="pt") as stream:
            for target in targets:
                yield target, _values(stream, target)


def _values(stream: Any, target: Target) -> torch.Tensor:
    if target.parts == 1:
        tensor = stream.get_tensor(target.source)
    else:
        first = target.part * target.shape[0]
        tensor = stream.get_slice(target.source)[first : first + target.shape[0]]
    if target.rows > target.shape[0]:
        # New tokens start as the mean of the others, so the head never prefers one to all of them.
        mean = tensor.float().mean(dim=0, keepdim=True).to(tensor.dtype)
        tensor = torch.cat([tensor, mean.expand(target.rows - target.shape[0], -1)])
    return tensor.clone(memory_format=torch.contiguous_format)
