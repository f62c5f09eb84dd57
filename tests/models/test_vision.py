"""Features, embedding and decoding in pieces equal the model in one go."""

from __future__ import annotations

import pytest
import torch
from support.models import IMAGE_TOKENS, tiny_inputs, tiny_model, tiny_text_config

from autoprune.errors import AutoPruneError
from autoprune.models.vision import decode, embed, head, vision_features


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_pieces_equal_the_whole(attn: str, tower: str) -> None:
    model, inputs = tiny_model(attn=attn, tower=tower), tiny_inputs()
    features = vision_features(model, inputs["pixel_values"])
    assert features.shape == (2, IMAGE_TOKENS, 24)
    assert not features.requires_grad
    hidden = decode(model, embed(model, inputs["input_ids"], features), inputs["attention_mask"])
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(head(model)(hidden)[real], model(**inputs).logits[real])


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_block_masks_equal_causal_attention(attn: str) -> None:
    model, inputs = tiny_model(attn=attn), tiny_inputs(padded=False)
    embeds = embed(model, inputs["input_ids"], vision_features(model, inputs["pixel_values"]))
    length = embeds.shape[1]
    causal = torch.ones(2, 1, length, length, dtype=torch.bool).tril()
    torch.testing.assert_close(decode(model, embeds, causal), decode(model, embeds))


def test_packed_questions_equal_each_alone() -> None:
    """Two questions behind one prefix, seen through a block mask, do not see each other."""
    for attn in ("sdpa", "eager"):
        model = tiny_model(tiny_text_config(), attn=attn)
        prefix, one, two = torch.arange(5, 9), torch.arange(9, 12), torch.arange(14, 18)
        packed = torch.cat([prefix, one, two])[None]
        segments = torch.tensor([0] * 4 + [1] * 3 + [2] * 4)
        positions = torch.cat([torch.arange(4), 4 + torch.arange(3), 4 + torch.arange(4)])[None]
        same = (segments[:, None] == segments[None, :]) | (segments == 0)[None, :]
        mask = (same & torch.ones(11, 11, dtype=torch.bool).tril())[None, None]
        hidden = decode(model, embed(model, packed), mask, positions)
        for piece, place in ((one, slice(4, 7)), (two, slice(7, 11))):
            alone = decode(model, embed(model, torch.cat([prefix, piece])[None]))
            torch.testing.assert_close(hidden[:, place], alone[:, 4:])


def test_gradients_reach_the_projector_only_upstream() -> None:
    model, inputs = tiny_model(), tiny_inputs()
    features = vision_features(model, inputs["pixel_values"])
    decode(model, embed(model, inputs["input_ids"], features)).sum().backward()
    assert model.model.multi_modal_projector.linear_1.weight.grad is not None
    assert all(p.grad is None for p in model.model.vision_tower.parameters())


def test_misuse_is_refused() -> None:
    model, inputs = tiny_model(), tiny_inputs()
    features = vision_features(model, inputs["pixel_values"])
    with pytest.raises(AutoPruneError, match="do not belong together"):
        embed(model, inputs["input_ids"], features[:1])
    plain = tiny_model(tiny_text_config())
    with pytest.raises(AutoPruneError, match="no vision tower"):
        vision_features(plain, inputs["pixel_values"])
    with pytest.raises(AutoPruneError, match="takes no image"):
        embed(plain, inputs["input_ids"], features)
