"""Weights as numpy arrays: shared between processes without a copy, copied when used.

Ray hands arrays to its workers as read-only views of shared memory.  Everything here that
builds a model from arrays therefore copies what it takes; a model never aliases an array.
numpy has no bfloat16: such tensors travel as their bits in ``int16``, a dtype that no model
parameter has.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.errors import AutoPruneError
from autoprune.models.layers import resize_layers
from autoprune.models.shape import meta_model

Arrays = Mapping[str, np.ndarray]


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's values as an array of its own memory (bfloat16 as ``int16`` bits)."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return tensor.numpy().copy()


def to_tensor(array: np.ndarray, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return an array's values as a tensor of its own memory, never a view of ``array``."""
    tensor = owned_tensor(np.array(array, copy=True, order="C"))
    return tensor if dtype is None else tensor.to(dtype)


def owned_tensor(array: np.ndarray) -> torch.Tensor:
    """Return a tensor on an array's memory, which nobody else may hold."""
    tensor = torch.from_numpy(array if array.flags.c_contiguous else np.ascontiguousarray(array))
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor


def state_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """Return every parameter and buffer of ``model`` by name, tied tensors once.

    Buffers that are not saved with a checkpoint, such as rotary frequencies, are included:
    they are what a model built on the meta device cannot know.
    """
    arrays = {name: to_array(tensor) for name, tensor in model.named_parameters()}
    arrays.update((name, to_array(tensor)) for name, tensor in model.named_buffers())
    return arrays


def from_arrays(
    config: Any,
    arrays: Arrays,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    *,
    layers: bool = True,
) -> Any:
    """Build the model of ``config`` with copies of ``arrays``, in evaluation mode.

    Args:
        config: as of the model that :func:`state_arrays` was taken from.
        arrays: its parameters and buffers.
        dtype: of the parameters; None keeps that of the arrays.  Buffers keep theirs.
        device: where the model is put.
        layers: False leaves the decoder layers on the meta device, for work that brings their
            values itself, one layer at a time.

    Raises:
        AutoPruneError: if the arrays do not fit the configuration.
    """
    model = build_empty(config)
    empty = [] if layers else [id(m) for m in model.get_decoder().layers.modules()]
    return fill(model, lambda name: to_tensor(named(arrays, name)), dtype, device, skip=empty)


def build_empty(config: Any) -> Any:
    """Build the model of ``config`` on the meta device, with per-layer shapes if it records any."""
    from autoprune.models.families import text_config

    model = meta_model(copy.deepcopy(config))
    if getattr(text_config(config), "autoprune", None):
        resize_layers(model)
    return model


def fill(
    model: nn.Module,
    source: Callable[[str], torch.Tensor],
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    *,
    skip: Collection[int] = (),
) -> Any:
    """Give a model on the meta device its values, one tensor at a time; tied ones stay tied.

    Args:
        model: built on the meta device; changed in place and returned in evaluation mode.
        source: returns the values of a parameter or buffer by its name, in memory that the
            model may keep.
        dtype: of the parameters; None keeps that of ``source``.  Buffers keep theirs.
        device: where the tensors are put.
        skip: ids of modules that stay on the meta device.
    """
    # Old beside new, so that no old parameter is freed and its id taken by another.
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for path, module in model.named_modules():
        if id(module) in skip:
            continue
        prefix = f"{path}." if path else ""
        for name, old in list(module._parameters.items()):
            if old is None:
                continue
            if id(old) not in made:
                values = _of_shape(source(prefix + name), old.shape, prefix + name)
                values = values.to(device=device, dtype=dtype)
                made[id(old)] = old, nn.Parameter(values, requires_grad=old.requires_grad)
            module._parameters[name] = made[id(old)][1]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                values = _of_shape(source(prefix + name), buffer.shape, prefix + name)
                module._buffers[name] = values.to(device=device)
        _fill_plain_tensors(module)
    return model.eval()


def _fill_plain_tensors(module: nn.Module) -> None:
    """Repair attributes such as ``original_inv_freq`` that older releases keep as plain tensors."""
    for name, value in list(vars(module).items()):
        if isinstance(value, torch.Tensor) and value.is_meta:
            buffer = module._buffers.get(name.removeprefix("original_"))
            if buffer is None:
                raise AutoPruneError(
                    f"{type(module).__name__}.{name} cannot be rebuilt: use transformers 5.17 "
                    "or newer"
                )
            setattr(module, name, buffer)


def _of_shape(tensor: torch.Tensor, shape: torch.Size, name: str) -> torch.Tensor:
    if tensor.shape != shape:
        raise AutoPruneError(
            f"weight {name} has shape {list(tensor.shape)} and the configuration says "
            f"{list(shape)}: use the configuration that belongs to these weights"
        )
    return tensor


def named(arrays: Arrays, name: str) -> np.ndarray:
    """Return an array by name.

    Raises:
        AutoPruneError: if it is missing.
    """
    if name not in arrays:
        raise AutoPruneError(
            f"weight {name} is missing: use the configuration that belongs to these weights"
        )
    return arrays[name]
