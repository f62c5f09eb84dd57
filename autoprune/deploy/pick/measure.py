"""The time of a token on this machine, measured on a model of a point's shapes.

Its weights are drawn: they take as long to multiply as any others, and are at hand for every point,
also where none were kept.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.cost.deployment import Deployment
    from autoprune.cost.latency import Latency
    from autoprune.pruning.plan import PruningPlan

HERE = "here"
TOKENS, WARM = 33, 4


def measure(config: Any, plan: PruningPlan, precision: str, prompt: Deployment) -> Latency:
    """Return the median time of a decoded token behind a prompt, at batch 1.

    Args:
        config: of the dense model.
        plan: what is kept of it.
        precision: of the weights, a key of ``models.precision.PRECISIONS``.
        prompt: as much as is in the cache by then.
    """
    import torch
    from transformers import DynamicCache

    from autoprune.cost.latency import measured
    from autoprune.models.precision import precision_of
    from autoprune.models.quantise import quantise
    from autoprune.pruning.surgery import pruned_config
    from autoprune.resources import suited_threads

    row = precision_of(precision)
    model = _drawn(pruned_config(config, plan), getattr(torch, row.dtype))
    if row.storage is not None:
        quantise(model, precision)
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    width = model.get_input_embeddings().weight.shape[1]
    times = []
    with torch.no_grad(), suited_threads(sum(p.numel() for p in model.parameters())):
        cache = DynamicCache()
        before = torch.zeros(1, max(1, prompt.positions - TOKENS - WARM), width, dtype=model.dtype)
        decoder(inputs_embeds=before, past_key_values=cache, use_cache=True)
        token = before[:, :1]
        for _ in range(WARM + TOKENS):
            start = time.perf_counter()
            head(decoder(inputs_embeds=token, past_key_values=cache, use_cache=True)[0])
            times.append(time.perf_counter() - start)
    return measured(times[WARM:], HERE, row.dtype)


def _drawn(config: Any, dtype: Any) -> Any:
    import torch

    from autoprune.models.arrays import build_empty

    model = build_empty(config)
    generator = torch.Generator().manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_(std=0.02, generator=generator)
        for tensor in model.buffers():
            tensor.zero_()
    return model
