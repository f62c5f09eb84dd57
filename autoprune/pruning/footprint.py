"""What an importance pass and a surgery hold at their peak, said before they run.

Both are bounds on tensors, in bytes, for weights of one dtype; what Python and its libraries
take comes on top. The pass is that of ``importance``: the model, the inputs of all layers of a
batch, and one layer's graph with what the probes make of it.
"""

from __future__ import annotations

from autoprune.models.shape import BackboneSpec

HEADROOM = 1.3
"""An importance pass should hold no more than this many times the model in half precision."""

SPARE = 1 << 30
"""Bytes beside a model that any machine has: small models need no care."""

GRADIENTS = 1 << 24
"""Entries of weight gradients that a pass holds at a time."""

# Numbers of a token in one layer's graph and in the probes' sums over it, by their width: a
# handful of the weights' dtype, fewer in float32, and sums in float64.
_HALF_CHANNELS, _FULL_CHANNELS = 5, 3
_HALF_HIDDEN, _FULL_HIDDEN = 8, 4
_DOUBLE_CHANNELS = 1


def weight_bytes(spec: BackboneSpec, itemsize: int) -> int:
    """Return what the weights of a whole model take, tied tensors once."""
    return spec.total_params * itemsize


def row_bytes(spec: BackboneSpec, itemsize: int, tokens: int) -> int:
    """Return what a row of ``tokens`` adds to an importance pass.

    Its states between all layers are kept; of one layer, its graph.
    """
    channels = max((shape.channels for shape in spec.layers), default=0)
    heads = max((shape.heads for shape in spec.layers), default=0)
    hidden = max(spec.hidden_size, heads * spec.head_dim)
    between = len(spec.layers) * spec.hidden_size * itemsize
    wide = channels * (_HALF_CHANNELS * itemsize + _FULL_CHANNELS * 4 + _DOUBLE_CHANNELS * 8)
    narrow = hidden * (_HALF_HIDDEN * itemsize + _FULL_HIDDEN * 4)
    return tokens * (between + wide + narrow)


def gradient_bytes(spec: BackboneSpec) -> int:
    """Return what the gradients held at a time take, and a float32 copy of their weights."""
    channels = max((shape.channels for shape in spec.layers), default=0)
    heads = max((shape.heads for shape in spec.layers), default=0)
    largest = spec.hidden_size * max(channels, heads * spec.head_dim)
    return 2 * 4 * min(largest, GRADIENTS)


def importance_peak(spec: BackboneSpec, itemsize: int, tokens: int, rows: int) -> int:
    """Return what an importance pass holds at its peak.

    Args:
        spec: of the dense model.
        itemsize: bytes of a weight.
        tokens: length of a row.
        rows: of a batch.
    """
    layer = rows * row_bytes(spec, itemsize, tokens)
    return weight_bytes(spec, itemsize) + layer + gradient_bytes(spec)


def rows_within(spec: BackboneSpec, itemsize: int, tokens: int, most: int) -> int:
    """Return how many rows a batch may have for the pass to stay within its headroom.

    The bound is :data:`HEADROOM` times the weights, or :data:`SPARE` more than these where that is
    more; one row is always allowed.

    Args:
        spec: of the dense model.
        itemsize: bytes of a weight.
        tokens: length of a row.
        most: rows that are wanted.
    """
    weights = weight_bytes(spec, itemsize)
    bound = max(HEADROOM * weights, weights + SPARE)
    free = bound - importance_peak(spec, itemsize, tokens, 0)
    return max(1, min(most, int(free // row_bytes(spec, itemsize, tokens))))


def surgery_peak(spec: BackboneSpec, params: int, itemsize: int, vocabulary: int) -> int:
    """Return what a surgery holds at its peak: the pruned model and one dense tensor.

    Tensors of the dense model are read one at a time from where they lie.

    Args:
        spec: of the dense model.
        params: of the pruned model.
        itemsize: bytes of a weight.
        vocabulary: rows of the embedding, which may be the largest tensor.
    """
    channels = max((shape.channels for shape in spec.layers), default=0)
    return (params + spec.hidden_size * max(channels, vocabulary)) * itemsize
