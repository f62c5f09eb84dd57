"""A small backbone with made-up importance, and what decoding knobs for it needs."""

from __future__ import annotations

from autoprune.search.candidates.decode import DecodeContext
from autoprune.testing.toy import toy_importance, toy_spec

LAYERS, GROUPS, CHANNELS = 8, 4, 48


SPEC = toy_spec(LAYERS, 2 * GROUPS, GROUPS, CHANNELS, outside=9000)
TOTAL = SPEC.total_params
LARGEST_UNIT = max(SPEC.attention_group_params, SPEC.channel_params, SPEC.head_params * GROUPS)


CONTEXT = DecodeContext(
    spec=SPEC,
    importance=toy_importance(SPEC),
    min_params=round(0.4 * TOTAL),
    max_params=round(0.6 * TOTAL),
    train_samples=100,
    max_recovery_samples=50,
)
