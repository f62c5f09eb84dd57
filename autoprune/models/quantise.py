"""Weight-only quantisation of a model's backbone, the last stage of a candidate.

Only the linear layers inside decoder layers are quantised: never the head, the embeddings, the
projector or the vision tower.  A linear whose width does not suit the format's groups is left
as it is, and named in the checkpoint's configuration (``modules_to_not_convert``).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from autoprune.errors import AutoPruneError
from autoprune.models.backbone import backbone_of
from autoprune.models.families import wrapper_of
from autoprune.models.precision import Storage, precision_of


@dataclass(frozen=True)
class Quantised:
    """What became of a backbone's linear layers.

    Attributes:
        precision: of those that were quantised.
        linears: names of those.
        left: names of those whose width does not suit it, left as they were.
    """

    precision: str
    linears: tuple[str, ...]
    left: tuple[str, ...]


def require_library() -> None:
    """Check that the quantisation library is there.

    Raises:
        AutoPruneError: if it is not; says how to get it.
    """
    if find_spec("torchao") is None:
        raise AutoPruneError(
            "quantised models need the library torchao, which is not installed: pip install torchao"
        )


@torch.no_grad()
def quantise(model: Any, precision: str) -> Quantised:
    """Quantise the linear layers of a model's decoder layers in place.

    Args:
        model: recovered in the precision's ``dtype``, adapters merged; its other weights are
            neither changed nor copied.
        precision: a key of :data:`~autoprune.models.precision.PRECISIONS`; for one that is not
            quantised nothing happens.

    Returns:
        Which layers were quantised, and which were left.

    Raises:
        AutoPruneError: for an unknown precision, a missing library, a model that is quantised
            already or carries adapters, or weights that are not finite.
    """
    storage = precision_of(precision).storage
    backbone = backbone_of(model)
    names = backbone.linear_names()
    if storage is None:
        return Quantised(precision, (), tuple(names))
    require_library()
    if hasattr(model, "peft_config"):
        raise AutoPruneError("the model still carries adapters: merge them before quantising")
    if getattr(model.config, "quantization_config", None) is not None:
        raise AutoPruneError("the model is quantised already: quantise the unquantised one")
    done, left = [], []
    for name in names:
        linear = model.get_submodule(name)
        if not storage.fits(linear.in_features):
            left.append(name)
            continue
        if not torch.isfinite(linear.weight).all():
            raise AutoPruneError(
                f"weight {name} is not finite and cannot be quantised: recover at a lower rate"
            )
        _QUANTISE[storage.library](linear)
        linear.weight.requires_grad_(False)
        done.append(name)
    _note(model, storage, left)
    return Quantised(precision, tuple(done), tuple(left))


def quantised_copy(model: Any, precision: str) -> Any:
    """Return a quantised model beside ``model``, which stays as it is.

    The copy shares every tensor that is not quantised: it costs the quantised weights only.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in model.parameters()}
    shared |= {id(tensor): tensor for tensor in model.buffers()}
    beside = copy.deepcopy(model, shared)
    quantise(beside, precision)
    return beside


@torch.no_grad()
def dequantise(model: Any) -> Any:
    """Put plain weights in place of quantised ones, of the values that they stand for."""
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        if type(module) is nn.Linear and is_quantised(weight):
            module.weight = nn.Parameter(weight.dequantize().contiguous(), requires_grad=False)
    model.config = copy.deepcopy(model.config)
    for holder in (model, model.config):
        for name in ("hf_quantizer", "quantization_config"):
            if getattr(holder, name, None) is not None:
                delattr(holder, name)
    return model


def is_quantised(tensor: Any) -> bool:
    """Whether a tensor is one of torchao's."""
    return tensor is not None and type(tensor).__module__.startswith("torchao.")


def _note(model: Any, storage: Storage, left: list[str]) -> None:
    """Record the quantisation where transformers looks for it when it saves and loads."""
    from transformers import TorchAoConfig
    from transformers.quantizers.auto import AutoHfQuantizer

    config = TorchAoConfig(
        _library_config(storage.library),
        modules_to_not_convert=[*_outside(model), *left],
    )
    model.config.quantization_config = config
    model.hf_quantizer = AutoHfQuantizer.from_config(config, pre_quantized=True)


def _outside(model: Any) -> list[str]:
    """Return the modules outside the decoder layers that hold linear layers, the highest ones."""
    inside = backbone_of(model).prefix
    names: list[str] = []
    for name, module in model.named_modules():
        if type(module) is not nn.Linear or name.startswith(f"{inside}."):
            continue
        parts = name.split(".")
        heads = (".".join(parts[: end + 1]) for end in range(len(parts)))
        top = next(h for h in heads if not f"{inside}.".startswith(f"{h}."))
        if top not in names:
            names.append(top)
    projector = wrapper_of(model.config).projector
    return names if projector is None or projector in names else [*names, projector]


def _library_config(kind: str) -> Any:
    """Return torchao's own description of a format, which goes into ``config.json``."""
    if kind == "Int8WeightOnlyConfig":
        from torchao.quantization import Int8WeightOnlyConfig

        return Int8WeightOnlyConfig(version=2)
    from torchao.prototype.mx_formats.inference_workflow import NVFP4WeightOnlyConfig

    return NVFP4WeightOnlyConfig()


def _to_int8(linear: Any) -> None:
    from torchao.quantization import quantize_

    quantize_(linear, _library_config("Int8WeightOnlyConfig"), lambda module, name: True)


def _to_int4(linear: Any) -> None:
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    weight = linear.weight.detach()
    largest = weight.abs().max()
    # A matrix of zeros has no scale; any serves. Scales stay in rows, not in the padded order
    # of one accelerator's kernel, which at small sizes is eight times as large.
    scale = per_tensor_amax_to_scale(torch.where(largest > 0, largest, 1.0))
    packed = NVFP4Tensor.to_nvfp4(weight, per_tensor_scale=scale, is_swizzled_scales=False)
    linear.weight = nn.Parameter(packed, requires_grad=False)


_QUANTISE = {"Int8WeightOnlyConfig": _to_int8, "NVFP4WeightOnlyConfig": _to_int4}
