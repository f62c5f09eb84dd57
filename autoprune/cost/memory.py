"""Memory that a model takes while it answers: weights, cache of keys and values, activations.

Activations are those of the prefill, which transformers runs over the whole prompt at once, with
attention that never holds its scores (sdpa): the residual stream, and what the widest sublayer
holds beside it. Tests count them by a trace of every tensor that is alive.
"""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.cost.bytes import stored_bytes
from autoprune.cost.deployment import Deployment, Kept, placed
from autoprune.models.families import FAMILIES
from autoprune.models.precision import precision_of
from autoprune.models.shape import BackboneSpec, LayerShape


@dataclass(frozen=True)
class Memory:
    """Bytes that a model takes while it answers.

    Attributes:
        weights: as they are stored, at their bits.
        cache: keys and values of all positions, in the dtype that is computed in.
        activations: at the peak of the prefill, vision tower included.
    """

    weights: int
    cache: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.activations


def memory_of(spec: BackboneSpec, pruned: Kept, precision: str, deployment: Deployment) -> Memory:
    """Return the memory that a model takes on a prompt.

    Args:
        spec: the dense model.
        pruned: what is kept of it, see ``deployment.Kept``.
        precision: a key of ``models.precision.PRECISIONS``.
        deployment: the prompt.

    Raises:
        AutoPruneError: for an unknown precision.
    """
    rows = tuple(placed(spec, pruned))
    shapes = [shape for _, shape in rows]
    item = precision_of(precision).item_bytes
    cache = sum(
        2 * shape.kv_heads * spec.head_dim * deployment.cached(place) for place, shape in rows
    )
    widest = max(
        (
            layer_room(spec, shape, deployment.cached(place) < deployment.positions)
            for place, shape in set(rows)
        ),
        default=spec.hidden_size,
    )
    positions = deployment.positions
    entries = max(widest * positions, deployment.vision_room)
    # A mask of positions by positions: booleans, and what is added to the scores for them.
    mask = positions**2 * (1 + item) if deployment.masked else 0
    return Memory(
        weights=stored_bytes(spec, shapes, precision),
        cache=item * cache,
        activations=item * entries + mask,
    )


def layer_room(spec: BackboneSpec, shape: LayerShape, windowed: bool = False) -> int:
    """Return the entries that are alive for each position at the peak of a layer's prefill.

    Beside the residual stream, the sublayer's input and the rotary angles, an MLP holds what it
    multiplies and the product; attention holds queries and keys before, while and after they
    are rotated, and its output. A fused projection is alive until its parts are used up.

    Args:
        spec: of the dense model.
        shape: of the layer.
        windowed: whether its cache holds fewer positions than the prefill has, which itself
            looks at all keys and values.
    """
    family = FAMILIES[spec.model_type]
    parts = [len(projection.parts) for projection in family.mlp.inputs]
    separate = parts == [1, 1]
    fused = len(family.attention.inputs) == 1 or len(parts) == 1
    queries, keys = shape.heads * spec.head_dim, shape.kv_heads * spec.head_dim
    # Where both sublayers read one input, that of the second waits for the first.
    beside = spec.hidden_size if sum(parts) == 1 else 0
    attention = 4 * queries + (2 if fused else 1) * keys + (3 * keys if windowed else 0) + beside
    mlp = (3 if separate else 4) * shape.channels + spec.hidden_size
    norm = 4 * spec.hidden_size
    return 2 * spec.hidden_size + max(mlp, attention, norm) + 2 * spec.head_dim + 2
