"""How many bytes a model's weights take in a checkpoint, exactly, without a weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from autoprune.amounts import BYTES, text_in
from autoprune.cost.parameters import Shaped
from autoprune.models.families import FAMILIES
from autoprune.models.precision import precision_of
from autoprune.models.shape import BackboneSpec, LayerShape


def stored_bytes(
    spec: BackboneSpec,
    pruned: Shaped | Iterable[LayerShape] | None = None,
    precision: str = "float32",
) -> int:
    """Return the bytes of the tensors of a saved model, scales and zero points included.

    Headers of files are not counted; tied tensors count once.

    Args:
        spec: the dense model.
        pruned: a plan or the shapes of the kept layers; None is the dense model.
        precision: a key of ``models.precision.PRECISIONS``.

    Raises:
        AutoPruneError: for an unknown precision.
    """
    row = precision_of(precision)
    shapes: Iterable[LayerShape]
    if pruned is None:
        shapes = spec.layers
    else:
        shapes = pruned if isinstance(pruned, Iterable) else pruned.shapes
    layers = sum(layer_bytes(spec, shape, precision) for shape in shapes)
    return row.item_bytes * spec.outside_params + layers


def dense_bytes(spec: BackboneSpec, precision: str = "float32") -> int:
    """Return the bytes of the dense model as it is worked with: what shares of bytes are of.

    Args:
        spec: the dense model.
        precision: of a candidate; the dense model is counted in its ``dtype``.
    """
    return stored_bytes(spec, None, precision_of(precision).dtype)


@lru_cache(maxsize=4096)
def layer_bytes(spec: BackboneSpec, shape: LayerShape, precision: str) -> int:
    """Return the bytes of one decoder layer of ``shape``."""
    row = precision_of(precision)
    total = row.item_bytes * spec.params_of_layer(shape)
    if row.storage is None:
        return total
    for rows, columns in linears_of(spec, shape):
        if row.storage.fits(columns):
            total += row.storage.bytes(rows, columns) - row.item_bytes * rows * columns
    return total


def linears_of(spec: BackboneSpec, shape: LayerShape) -> Iterator[tuple[int, int]]:
    """Yield rows and columns of the weight of every linear in a layer of ``shape``."""
    family = FAMILIES[spec.model_type]
    widths = {
        "q": shape.heads * spec.head_dim,
        "kv": shape.kv_heads * spec.head_dim,
        "channel": shape.channels,
    }
    for sublayer, kept in ((family.attention, shape.heads), (family.mlp, shape.channels)):
        if kept:
            for projection in sublayer.inputs:
                yield sum(widths[part] for part in projection.parts), spec.hidden_size
            yield spec.hidden_size, sum(widths[part] for part in sublayer.output.parts)


def format_bytes(count: int) -> str:
    """Write a count of bytes for people: ``3GiB``, ``1.94MiB``, ``512B``."""
    return text_in(count, BYTES)
