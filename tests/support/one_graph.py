"""The plain way to go back through a decoder: one graph over all layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def one_graph(layers: Any, blocks: Any, resident: Any = None) -> Iterator[None]:
    """Stand in for ``blocks.blockwise``: let one graph begin at the first layer."""

    def begin(_: Any, args: tuple[torch.Tensor, ...]) -> Any:
        return (args[0].detach().requires_grad_(), *args[1:])

    handle = layers[0].register_forward_pre_hook(begin)
    try:
        yield
    finally:
        handle.remove()
