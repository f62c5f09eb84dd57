"""A backward pass that holds the activations of one decoder layer at a time.

Each layer's forward pass runs without a graph and keeps nothing but its input. When the loss's
gradient arrives at the layer, it is run again with a graph, the gradient goes through it, and
the graph is dropped. So at any time there is one layer's graph, whatever the depth, for the
price of one more forward pass (Chen et al. 2016, "Training Deep Nets with Sublinear Memory
Cost").

The layers are wrapped where they stand, and whatever forward pass the model has runs them: masks,
positions and what a model does between its layers are nobody's business here. Whoever watches
the layers by hooks looks at :attr:`Blocks.counting`: it is true in the second run only, so that
everything is seen once, with its graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autoprune.models.arrays import Arrays, named, to_tensor
from autoprune.models.backbone import Backbone

Resident = Callable[[int], AbstractContextManager[None]]


class Blocks:
    """The state of a pass over wrapped layers.

    Attributes:
        counting: whether what runs now is to be counted: outside of :func:`blockwise` always,
            inside of it in the run of a layer that has a graph.
    """

    def __init__(self) -> None:
        self.counting = True


@contextmanager
def blockwise(
    layers: Sequence[nn.Module],
    blocks: Blocks,
    resident: Resident | None = None,
) -> Iterator[None]:
    """Within, gradients go through ``layers`` one at a time.

    Layers must be deterministic (evaluation mode), run without a key/value cache, and have all
    their parameters frozen: gradients reach a layer's inputs only.

    Args:
        layers: decoder layers, each called by the model's own forward pass.
        blocks: told what to count.
        resident: entered around each run of a layer, with its index, to bring its weights. Where
            there is need for that, the inputs of layers are kept in main memory too.
    """
    originals = [layer.__dict__.get("forward") for layer in layers]
    for index, layer in enumerate(layers):
        setattr(layer, "forward", _Wrapped(index, layer, blocks, resident))  # noqa: B010
    blocks.counting = False
    try:
        yield
    finally:
        blocks.counting = True
        for layer, original in zip(layers, originals, strict=True):
            del layer.__dict__["forward"]
            if original is not None:
                layer.__dict__["forward"] = original


def brought(backbone: Backbone, weights: Arrays) -> Resident:
    """Return what brings a layer's values from ``weights`` while the layer runs, and no longer.

    Args:
        backbone: of a model whose decoder layers lie on the meta device; the rest of it says on
            which device and in which dtype they run.
        weights: the model's parameters and buffers by name.
    """
    embedding = cast(Any, backbone.model).get_input_embeddings().weight
    prefix = backbone.prefix

    @contextmanager
    def resident(index: int) -> Iterator[None]:
        held = []
        for path, module in backbone.layers[index].named_modules():
            name = ".".join(filter(None, (prefix, str(index), path)))
            for own, dtype in ((module._parameters, embedding.dtype), (module._buffers, None)):
                for key, empty in list(own.items()):
                    if empty is None:
                        continue
                    values = to_tensor(named(weights, f"{name}.{key}"))
                    values = values.to(device=embedding.device, dtype=dtype)
                    held.append((own, key, empty))
                    own[key] = nn.Parameter(values, False) if own is module._parameters else values
        try:
            yield
        finally:
            for own, key, empty in held:
                own[key] = empty

    return resident


class _Wrapped:
    """Stands in for a layer's ``forward``."""

    def __init__(
        self, index: int, layer: nn.Module, blocks: Blocks, resident: Resident | None
    ) -> None:
        self.index = index
        self.layer = layer
        self.blocks = blocks
        self.offload = resident is not None
        self.resident = resident or (lambda index: nullcontext())
        self.forward = layer.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.blocks.counting:  # the second run, which came in through the layer's hooks
            return self.forward(*args, **kwargs)
        if kwargs.get("past_key_values") is not None:
            raise RuntimeError("layers that are run twice cannot write to a cache: use none")
        leaves, layout = pytree.tree_flatten((args, kwargs))
        if not torch.is_grad_enabled():
            with self.resident(self.index):
                return self.forward(*args, **kwargs)
        places = [i for i, leaf in enumerate(leaves) if _wants_grad(leaf)]
        if not places:  # the first layer behind frozen embeddings: the graph begins here
            place = next(i for i, leaf in enumerate(leaves) if _is_floating(leaf))
            leaves[place] = leaves[place].detach().requires_grad_()
            places = [place]
        call = _Call(self, leaves, layout, places)
        tensors = _Function.apply(call, *(leaves[place] for place in places))
        assert call.output is not None
        return call.output.joined(tensors)

    def again(self, leaves: Sequence[Any], layout: Any) -> Any:
        """Run the layer with its hooks, to be counted."""
        args, kwargs = pytree.tree_unflatten(list(leaves), layout)
        self.blocks.counting = True
        try:
            return self.layer(*args, **kwargs)
        finally:
            self.blocks.counting = False


@dataclass(frozen=True)
class _Output:
    """A layer's output taken apart: tensors by their places, and everything else."""

    leaves: list[Any]
    layout: Any
    places: list[int]

    @classmethod
    def of(cls, output: Any) -> _Output:
        leaves, layout = pytree.tree_flatten(output)
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        return cls(leaves, layout, places)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(self.leaves[place] for place in self.places)

    def without_tensors(self) -> _Output:
        rest = [None if i in self.places else leaf for i, leaf in enumerate(self.leaves)]
        return _Output(rest, self.layout, self.places)

    def joined(self, tensors: Sequence[torch.Tensor]) -> Any:
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        return pytree.tree_unflatten(leaves, self.layout)


class _Call:
    """One call of a layer: its arguments, of which those with gradients are kept by autograd."""

    def __init__(
        self, wrapped: _Wrapped, leaves: Sequence[Any], layout: Any, places: Sequence[int]
    ) -> None:
        self.wrapped = wrapped
        self.layout = layout
        self.places = places
        self.rest = [None if i in places else leaf for i, leaf in enumerate(leaves)]
        self.output: _Output | None = None

    def leaves(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        leaves = list(self.rest)
        for place, tensor in zip(self.places, inputs, strict=True):
            leaves[place] = tensor
        return leaves


class _Function(torch.autograd.Function):
    """A layer without a graph on the way there, and with one on the way back."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.device = inputs[0].device
        kept = [tensor.cpu() for tensor in inputs] if call.wrapped.offload else inputs
        ctx.save_for_backward(*kept)
        args, kwargs = pytree.tree_unflatten(call.leaves(inputs), call.layout)
        with call.wrapped.resident(call.wrapped.index):
            output = _Output.of(call.wrapped.forward(*args, **kwargs))
        call.output = output.without_tensors()
        ctx.mark_non_differentiable(*(t for t in output.tensors if not t.is_floating_point()))
        return output.tensors

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        call: _Call = ctx.call
        inputs = [
            tensor.detach().to(ctx.device, copy=False).requires_grad_()
            for tensor in ctx.saved_tensors
        ]
        with torch.enable_grad(), call.wrapped.resident(call.wrapped.index):
            again = _Output.of(call.wrapped.again(call.leaves(inputs), call.layout))
            pairs = [
                (tensor, grad)
                for tensor, grad in zip(again.tensors, grads, strict=True)
                if grad is not None and tensor.requires_grad
            ]
            found = torch.autograd.grad(
                [tensor for tensor, _ in pairs],
                inputs,
                [grad for _, grad in pairs],
                allow_unused=True,
            )
        return None, *found


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()


def _wants_grad(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.requires_grad
