"""The prompt that memory and latency are said for."""

from __future__ import annotations

import pytest
from support.families import CASES

from autoprune.cost.deployment import deployment_of
from autoprune.errors import AutoPruneError
from autoprune.models.families import text_config

ANY_SIZE = ("qwen2_vl-qwen2_vl_text", "qwen2_5_vl-qwen2_5_vl_text", "qwen3_vl-qwen3_vl_text")


@pytest.mark.parametrize("name", ANY_SIZE)
@pytest.mark.parametrize(
    ("positions", "asked", "context", "image"),
    [
        # patches of 4 pixels, four a token: 448 x 448 pixels are 3,136 tokens
        (1 << 17, {}, 1024, 3136),
        (256, {}, 128, 128),
        (256, {"context": 200}, 200, 56),
        (256, {"images": 2}, 128, 64),
        (256, {"image_tokens": 16}, 240, 16),
        (256, {"images": 0}, 256, 3136),
    ],
)
def test_an_image_of_any_size_is_as_large_as_the_positions_hold(
    name: str, positions: int, asked: dict[str, int], context: int, image: int
) -> None:
    config = CASES[name].config()
    text_config(config).max_position_embeddings = positions
    prompt = deployment_of(config, **asked)
    assert (prompt.context, prompt.image_tokens) == (context, image)
    assert prompt.positions <= positions


def test_more_than_a_stated_image_leaves_room_for_is_refused() -> None:
    config = CASES[ANY_SIZE[0]].config()
    text_config(config).max_position_embeddings = 256
    with pytest.raises(AutoPruneError, match="at most 56 tokens of text"):
        deployment_of(config, context=64, image_tokens=200)
