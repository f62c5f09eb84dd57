"""The precisions of a finished model, and how each stores a linear layer's weight.

Pure data: nothing here imports torch, so that settings and costs can be checked at once.

The quantised precisions are weight-only and those of torchao, which stock transformers save
and load on CPU and GPU.  torchao's integer 4-bit layouts have kernels for some accelerators
only and none for the CPU; so ``int4`` is its 4-bit float of the same size (NVFP4: E2M1 values,
one E4M3 scale for each 16 of a row, one float32 scale for the matrix), which runs anywhere.
On normal weights its relative error is 0.095, that of integers in groups of 32 the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from autoprune.errors import AutoPruneError, did_you_mean

Stored = tuple[str, tuple[int, ...]]
"""A tensor in a safetensors file: its dtype there, and its shape."""

ITEM_BYTES: dict[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "F32": 4,
    "I64": 8,
    "F64": 8,
}
"""Bytes of one entry by the names that safetensors gives its dtypes."""


@dataclass(frozen=True)
class Storage:
    """How a quantised weight of shape ``[rows, columns]`` lies in a checkpoint.

    Attributes:
        library: the type that torchao's configuration names it by.
        group: columns that share a scale; a weight whose columns are no multiple of it is left
            as it is.
        tensors: rows, columns -> the tensors that stand for the weight, by name.
        fewest: columns of the narrowest weight that the library takes.
    """

    library: str
    group: int
    tensors: Callable[[int, int], dict[str, Stored]]
    fewest: int = 1

    def fits(self, columns: int) -> bool:
        """Whether a weight of ``columns`` inputs can be stored so."""
        return columns >= self.fewest and columns % self.group == 0

    def bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of a weight that fits."""
        return sum(size_of(stored) for stored in self.tensors(rows, columns).values())


@dataclass(frozen=True)
class Precision:
    """A row of :data:`PRECISIONS`.

    Attributes:
        dtype: of recovery, and of everything that is not quantised.
        storage: of the backbone's linear weights; None leaves them in ``dtype``.
    """

    dtype: str
    storage: Storage | None = None

    @property
    def item_bytes(self) -> int:
        """Bytes of a parameter that is not quantised."""
        return {"float32": 4, "bfloat16": 2}[self.dtype]


def size_of(stored: Stored) -> int:
    """Return the bytes of a stored tensor."""
    dtype, shape = stored
    return ITEM_BYTES[dtype] * prod(shape)


def _int8(rows: int, columns: int) -> dict[str, Stored]:
    return {
        "_weight_qdata": ("I8", (rows, columns)),
        "_weight_scale": ("F32", (rows, 1)),
        "_weight_zero_point": ("I8", (rows, 1)),
    }


def _int4(rows: int, columns: int) -> dict[str, Stored]:
    return {
        "_weight_qdata": ("U8", (rows, columns // 2)),
        "_weight_scale": ("F8_E4M3", (rows, columns // 16)),
        "_weight_per_tensor_scale": ("F32", ()),
    }


# A row of one column would get a scale for the whole matrix, and then not be accepted.
_INT8 = Storage("Int8WeightOnlyConfig", 1, _int8, fewest=2)
_INT4 = Storage("NVFP4WeightOnlyConfig", 16, _int4)

PRECISIONS: dict[str, Precision] = {
    "float32": Precision("float32"),
    "bfloat16": Precision("bfloat16"),
    "int8": Precision("float32", _INT8),
    "int4": Precision("float32", _INT4),
    "int8-bf16": Precision("bfloat16", _INT8),
    "int4-bf16": Precision("bfloat16", _INT4),
}
"""Every precision that a candidate may have; behind a dash is that of what is not quantised."""


def precision_of(name: str) -> Precision:
    """Return the row of a precision.

    Raises:
        AutoPruneError: for an unknown name; says the nearest.
    """
    if name not in PRECISIONS:
        raise AutoPruneError(f"unknown precision {name!r}{did_you_mean(name, PRECISIONS)}")
    return PRECISIONS[name]


def precision_beside(name: str, dtype: str) -> str:
    """Return the precision that quantises like ``name`` and keeps the rest in ``dtype``."""
    storage = precision_of(name).storage
    return next(
        other for other, row in PRECISIONS.items() if (row.dtype, row.storage) == (dtype, storage)
    )


def stored_precision(config: Mapping[str, Any], what: str) -> str | None:
    """Return the quantised precision that a checkpoint's ``config.json`` states, or None.

    Raises:
        AutoPruneError: for a quantisation that AutoPrune cannot read.
    """
    noted = config.get("quantization_config")
    if not noted:
        return None
    method = noted.get("quant_method")
    try:
        library = noted["quant_type"]["default"]["_type"]
    except (KeyError, TypeError):
        library = None
    for name, row in PRECISIONS.items():
        if method == "torchao" and row.storage is not None and row.storage.library == library:
            return name
    raise AutoPruneError(
        f"{what} is quantised by {method or 'an unknown method'}"
        f"{f' ({library})' if library else ''}, which AutoPrune does not read: use the "
        "unquantised checkpoint"
    )
