"""A checkpoint's weights where they lie: read from its files a tensor at a time.

A :class:`WeightSource` gives the same arrays under the same names as ``state_arrays`` of the
loaded model, but holds none of them. Each is a read-only view of the mapped file, made when it is
asked for and unmapped when it is dropped; so a process holds what it is looking at, processes of
one machine share the system's page cache, and a pickle holds paths. Checkpoints written by older
releases name their tensors otherwise; they are renamed by transformers' own tables.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.errors import AutoPruneError
from autoprune.models.arrays import build_empty, from_arrays, owned_tensor, to_array
from autoprune.models.families import wrapper_of
from autoprune.models.files import (
    TensorHeader,
    generation_settings,
    read_config,
    tensor_headers,
)
from autoprune.models.loading import Inspected, Loaded, check_loading_info, load_processor, quiet
from autoprune.models.shape import spec_of
from autoprune.models.trace import check_row

# numpy has no bfloat16: its bits stand in int16, as everywhere, see ``arrays``.
_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.int16,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_FLOATS = ("F64", "F32", "F16", "BF16")
_CODES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class _File:
    """A file of weights as it was found."""

    path: Path
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> _File:
        try:
            stat = path.stat()
        except OSError as error:
            raise AutoPruneError(
                f"{path} cannot be read any more ({error.strerror}): put it back and start again"
            ) from None
        return cls(path.absolute(), stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies."""

    file: _File
    header: TensorHeader
    cast: bool


class WeightSource(Mapping[str, np.ndarray]):
    """Every parameter and buffer of a model by name, tied tensors once, in its files.

    Args:
        places: where the tensors lie that the files hold.
        buffers: those that no file holds, such as rotary frequencies.
        dtype: of the parameters; those stored otherwise are converted when they are read.
    """

    def __init__(
        self,
        places: Mapping[str, _Place],
        buffers: Mapping[str, np.ndarray],
        dtype: torch.dtype,
    ) -> None:
        self._places = dict(places)
        self._buffers = dict(buffers)
        self.dtype = dtype

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a tensor's values, read-only (bfloat16 as ``int16`` bits).

        Raises:
            AutoPruneError: if its file has changed since the source was made.
        """
        if name in self._buffers:
            array = self._buffers[name].view()
        else:
            array = self.read(self._places[name])
        array.flags.writeable = False
        return array

    def read(self, place: _Place) -> np.ndarray:
        """Return the values that lie at a place."""
        array = _mapped(place)
        if place.cast and place.header.dtype != _CODES[self.dtype]:
            array = to_array(owned_tensor(array.copy()).to(self.dtype))
        return array

    def __iter__(self) -> Iterator[str]:
        """Go over the names."""
        yield from self._places
        yield from self._buffers

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._places) + len(self._buffers)


def weight_source(directory: Path, config: Any, dtype: torch.dtype) -> WeightSource | None:
    """Return the weights of a checkpoint where they lie.

    Args:
        directory: of the checkpoint.
        config: its configuration.
        dtype: that its parameters are wanted in: float64, float32 or bfloat16.

    Returns:
        The source; None where the files hold something that is not a tensor of the model under
        another name, such as quantised weights: load the model then.

    Raises:
        AutoPruneError: if a tensor of the model is missing, or one of the files has no place.
    """
    if read_config(directory).get("quantization_config"):
        return None
    with _default(dtype):
        model = build_empty(config)
    headers = tensor_headers(directory)
    names = _names(model, headers)
    if names is None:
        return None
    wanted = dict(model.named_parameters())
    wanted.update(model.named_buffers())
    buffers = _built_buffers(model)
    places: dict[str, _Place] = {}
    files = {header.file: _File.of(header.file) for header in headers.values()}
    for name, tensor in wanted.items():
        if name in buffers:
            continue
        header = headers.get(names.get(name, ""))
        if header is None:
            check_loading_info({"missing_keys": [name]}, directory)
            continue
        if header.shape != tuple(tensor.shape):
            check_loading_info({"mismatched_keys": [name]}, directory)
        if header.dtype not in _DTYPES:
            return None
        cast = tensor.is_floating_point() and header.dtype in _FLOATS
        places[name] = _Place(files[header.file], header, cast)
    source = WeightSource(places, buffers, dtype)
    _check_tied(model, source, names, headers, directory)
    return source


def _check_tied(
    model: Any,
    source: WeightSource,
    names: Mapping[str, str],
    headers: Mapping[str, TensorHeader],
    directory: Path,
) -> None:
    """Check that tensors which the configuration ties are equal where the files hold both.

    Raises:
        AutoPruneError: naming two that differ.
    """
    first = {id(tensor): name for name, tensor in model.named_parameters()}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        tied = first[id(tensor)]
        if name == tied or name not in names:
            continue
        header = headers[names[name]]
        place = _Place(_File.of(header.file), header, True)
        same = header.shape == tuple(tensor.shape)
        if not same or not np.array_equal(source.read(place), source[tied]):
            raise AutoPruneError(
                f"{directory} holds {names[tied]} and {names[name]} of other values, and its "
                "config.json ties them: set tie_word_embeddings to false if each is its own"
            )


def load_from(
    found: Inspected,
    source: WeightSource,
    device: str | torch.device = "cpu",
    *,
    layers: bool = True,
) -> Loaded:
    """Build a model from its source, one tensor at a time, and load its processor.

    What is held beside the model is one tensor; transformers' own loader keeps every page of the
    files that it has read.

    Args:
        found: the checkpoint, inspected.
        source: its weights.
        device: where the model is put.
        layers: False leaves the decoder layers on the meta device, see ``from_arrays``.

    Raises:
        AutoPruneError: if the model is not what the checkpoint's configuration says.
    """
    processor = load_processor(found.directory, wrapper_of(found.config).projector is not None)
    model = from_arrays(found.config, source, None, device, layers=layers)
    for config in (model.config, *(getattr(model.config, n) for n in model.config.sub_configs)):
        config.dtype = source.dtype
    generation = generation_settings(found.directory)
    if generation is not None:
        model.generation_config = generation
    if layers:
        check_row(model)
    return Loaded(
        model=model,
        processor=processor,
        ref=found.ref,
        directory=found.directory,
        identity=found.identity,
        config=model.config,
        spec=spec_of(model),
        licence=found.licence,
    )


def _mapped(place: _Place) -> np.ndarray:
    """Return a read-only view of a tensor's bytes; its pages are unmapped with the array."""
    header, file = place.header, place.file
    dtype = np.dtype(_DTYPES[header.dtype])
    count = int(np.prod(header.shape, dtype=np.int64))
    if _File.of(file.path) != file:
        raise AutoPruneError(
            f"{file.path} has changed since it was first read: start again with the weights as "
            "they are now"
        )
    if count == 0:
        return np.empty(header.shape, dtype)
    begin = header.start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    length = header.start - begin + count * dtype.itemsize
    with file.path.open("rb") as stream:
        pages = mmap.mmap(stream.fileno(), length, access=mmap.ACCESS_READ, offset=begin)
    values = np.frombuffer(pages, dtype, count, offset=header.start - begin)
    return values.reshape(header.shape)


def _names(model: Any, headers: Mapping[str, TensorHeader]) -> dict[str, str] | None:
    """Return the name in the files of each of a model's tensors; None where that is not all.

    Raises:
        AutoPruneError: for a tensor of the files that has no place in the model.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        rename_source_key,
    )

    own = model.state_dict()
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    prefix = model.base_model_prefix
    names: dict[str, str] = {}
    for stored, header in headers.items():
        renamed, converted = rename_source_key(stored, renamings, converters, prefix, own)
        if renamed not in own and stored in own:
            renamed, converted = rename_source_key(stored, [], [], prefix, own)
        if converted is not None:
            return None
        if renamed in own:
            if renamed in names:
                return None
            names[renamed] = stored
        elif not _ignored(model, renamed):
            check_loading_info({"unexpected_keys": [stored]}, header.file.parent)
    return names


def _ignored(model: Any, name: str) -> bool:
    """Whether transformers passes over a tensor that the model has no place for."""
    patterns = set(model._keys_to_ignore_on_load_unexpected or ())
    buffers = [buffer for buffer, _ in model.named_buffers()]
    # What older releases saved with each layer is built now.
    if any(buffer.endswith("rotary_emb.inv_freq") for buffer in buffers):
        patterns.add(r"rotary_emb\.inv_freq")
    if any(buffer.endswith("position_ids") for buffer in buffers):
        patterns.add(r"(^|\.)position_ids$")
    return any(re.search(pattern, name) for pattern in patterns)


def _built_buffers(model: Any) -> dict[str, np.ndarray]:
    """Build the buffers that are not saved, in a model on the meta device, and return them."""
    saved = set(model.state_dict())
    for parameter in model.parameters():
        parameter._is_hf_initialized = True
    fresh = []
    for path, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and f"{path}.{name}".lstrip(".") not in saved:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")
                fresh.append(f"{path}.{name}".lstrip("."))
    with quiet():
        model.initialize_weights()
    buffers = dict(model.named_buffers())
    return {name: to_array(buffers[name]) for name in fresh}


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Within, what is built has this dtype where it is not said otherwise."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
