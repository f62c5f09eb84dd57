"""Encoding: packed questions are computed as if each stood alone, for any chat template."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from autoprune.data.encoding import IGNORED, Batch, EncodedSet, batches, collate, encode
from autoprune.data.samples import Sample, Turn
from autoprune.errors import AutoPruneError
from autoprune.zoo.model import build_processor
from autoprune.zoo.splits import load_split

CHATML = """{% for m in messages %}[S]{{ m.role }}
{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}\
{% if c.type == 'image' %}<image>{% else %}{{ c.text | trim }}{% endif %}{% endfor %}{% endif %}[E]
{% endfor %}{% if add_generation_prompt %}[S]assistant
{% endif %}"""
NO_END = """{% for m in messages %}{% for c in m.content %}\
{% if c.type == 'image' %}<image> {% else %}{{ c.text }}{% endif %}{% endfor %}\
{% if m.role == 'user' %} ASSISTANT: {% else %} USER {% endif %}{% endfor %}"""
THINKING = """{% for m in messages %}{% for c in m.content %}\
{% if c.type == 'image' %}<image> {% else %}{{ c.text }}{% endif %}{% endfor %}\
{% if m.role == 'user' %} ASSISTANT: {% endif %}{% endfor %}\
{% if add_generation_prompt %}there is no {% endif %}"""
IMAGE_LAST = NO_END.replace("m.content %}{%", "m.content | reverse %}{%", 1)


def processor_with(template: str | None = None):
    processor = build_processor()
    if template is not None:
        processor.chat_template = template
        processor.tokenizer.add_special_tokens({"additional_special_tokens": ["[S]", "[E]"]})
    return processor


def tiny_llava(vocabulary: int) -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=48,
        patch_size=16,
    )
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.3,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=4,
        vision_feature_layer=-1,
        image_seq_length=9,
    )
    return LlavaForConditionalGeneration(config).eval()


def mixed_samples() -> list[Sample]:
    """Images, text only, one turn, many turns, one set of equal beginnings."""
    digits = load_split("calibration", 4)
    turn = Turn("How many digits are there", "3", "count")
    other = Turn("How many digits are white", "2", "count")
    return [
        digits[0],
        Sample("text", None, (turn, other)),
        Sample("single", digits[1].image, (turn,)),
        Sample("alike", digits[2].image, (turn, other, Turn(turn.question, "4", "count"))),
        digits[3],
    ]


def forward(model: LlavaForConditionalGeneration, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model(
            input_ids=batch.input_ids,
            pixel_values=batch.pixel_values,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
        ).logits


def answer_logits(model: LlavaForConditionalGeneration, encoded: EncodedSet) -> torch.Tensor:
    logits = []
    for batch in batches(encoded, range(len(encoded)), 3):
        rows, cols, _ = batch.answer_index
        logits.append(forward(model, batch)[rows, cols])
    return torch.cat(logits)


@pytest.mark.parametrize("template", [None, CHATML, NO_END, THINKING])
def test_packed_equals_plain(template: str | None) -> None:
    processor = processor_with(template)
    model = tiny_llava(len(processor.tokenizer))
    packed = encode(mixed_samples(), processor)
    plain = encode(mixed_samples(), processor, packed=False)
    assert len(packed) == 5
    assert len(plain) == sum(len(sample.turns) for sample in mixed_samples())
    assert packed.num_answer_tokens == plain.num_answer_tokens
    expected = answer_logits(model, plain)
    assert torch.allclose(answer_logits(model, packed), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("template", [None, CHATML, NO_END])
def test_plain_rows_are_what_the_processor_makes(template: str | None) -> None:
    processor = processor_with(template)
    samples = mixed_samples()
    plain = encode(samples, processor, packed=False)
    row = 0
    for sample in samples:
        for turn in sample.turns:
            image = [] if sample.image is None else [{"type": "image", "image": sample.image}]
            asked = {
                "role": "user",
                "content": [*image, {"type": "text", "text": turn.question}],
            }
            expected = processor.apply_chat_template(
                [asked], tokenize=True, return_dict=True, add_generation_prompt=True
            )
            ids = np.concatenate(expected["input_ids"]).tolist()
            ids += processor.tokenizer(turn.answer, add_special_tokens=False)["input_ids"]
            end = "[E]" if template == CHATML else "</s>"
            ids.append(processor.tokenizer.convert_tokens_to_ids(end))
            begin, stop = plain.offsets[row : row + 2]
            assert plain.input_ids[begin:stop].tolist() == ids
            labels = plain.labels[begin:stop]
            assert labels[labels != IGNORED].tolist() == ids[-2:]
            assert (labels[:-2] == IGNORED).all()
            if sample.image is not None:
                values = plain.pixel_values[plain.image_rows[row, 0]]
                wanted = np.asarray(expected["pixel_values"][0])
                # Rounding to float16 moves a pixel by less than a tenth of an 8-bit step.
                assert np.abs(values - wanted).max() < 0.1 / 255 / 0.3
            row += 1


def test_packed_layout() -> None:
    processor = processor_with()
    encoded = encode(mixed_samples(), processor)
    batch = collate(encoded, [3, 1, 0])
    assert batch.samples.tolist() == [3, 1, 0]
    assert batch.images.tolist() == [2, 0]
    assert batch.image_tokens.sum().item() == 18
    segments = encoded.segments[encoded.offsets[3] : encoded.offsets[4]]
    length = len(segments)
    assert segments.max() == 3
    # "How many digits are there ASSISTANT" is asked twice, but the questions differ before that.
    prefix = ["<s>", "USER", *["<image>"] * 9, "How", "many", "digits", "are"]
    shared = processor.tokenizer.convert_ids_to_tokens(batch.input_ids[0, : len(prefix)])
    assert shared == prefix
    assert (segments == 0).sum() == len(prefix)
    mask = batch.attention_mask[0, 0].numpy()
    for i in range(length):
        for j in range(length):
            sees = j <= i and segments[j] in (0, segments[i])
            assert mask[i, j] == sees
    assert not mask[:length, length:].any()
    assert mask.any(axis=1).all()
    positions = batch.position_ids[0, :length].numpy()
    for k in (1, 2, 3):
        own = positions[segments == k]
        assert own.tolist() == list(range(len(prefix), len(prefix) + len(own)))
    rows, cols, targets = batch.answer_index
    assert torch.equal(batch.labels[rows, cols + 1], targets)
    for row, col in zip(rows.tolist(), cols.tolist(), strict=True):
        own = encoded.segments[encoded.offsets[batch.rows[row]] :]
        assert own[col] == own[col + 1] > 0


def test_answers_count_through_the_whole_set() -> None:
    encoded = encode(mixed_samples(), processor_with())
    everything = encoded.labels[encoded.labels != IGNORED]
    batch = collate(encoded, [4, 0, 2])
    assert everything[batch.answers.numpy()].tolist() == batch.answer_index.targets.tolist()


def test_travels_and_has_an_identity() -> None:
    encoded = encode(mixed_samples(), processor_with())
    again = pickle.loads(pickle.dumps(encode(mixed_samples(), processor_with())))
    assert again.identity == encoded.identity
    assert encode(mixed_samples()[:4], processor_with()).identity != encoded.identity
    assert collate(again.without_pixels(), [0]).pixel_values is None
    digits = load_split("calibration", 5)
    encoded = encode(digits, processor_with())
    assert np.array_equal(encoded.ring, digits.ring)
    assert encoded.strata.tolist() == [0] * 5


def test_text_only_set() -> None:
    encoded = encode([mixed_samples()[1]], processor_with())
    batch = collate(encoded, [0])
    assert batch.pixel_values is None
    assert not batch.image_tokens.any()
    assert len(batch.images) == 0


def test_plain_language_model() -> None:
    tokenizer = build_processor().tokenizer
    tokenizer.chat_template = build_processor().chat_template
    same = encode([mixed_samples()[1]], build_processor())
    assert encode([mixed_samples()[1]], tokenizer).input_ids.tolist() == same.input_ids.tolist()
    with pytest.raises(AutoPruneError, match="reads no images"):
        encode(mixed_samples(), tokenizer)


def test_what_cannot_be_encoded() -> None:
    samples = mixed_samples()
    with pytest.raises(AutoPruneError, match="packed=False"):
        encode(samples, processor_with(IMAGE_LAST))
    assert len(encode(samples, processor_with(IMAGE_LAST), packed=False)) == 22
    with pytest.raises(AutoPruneError, match="asks nothing"):
        encode([Sample("empty", None, ())], processor_with())
    processor = build_processor()
    processor.chat_template = None
    with pytest.raises(AutoPruneError, match="no chat template"):
        encode(samples, processor)
    with pytest.raises(AutoPruneError, match="does not show the answer"):
        encode(samples, processor_with(CHATML.replace("c.text | trim", "'x'")))


def test_collation_is_fast() -> None:
    """Recovery sees 200 rows a second; collation may cost 5 % of that: 250 µs a row."""
    encoded = encode(load_split("calibration", 64), processor_with())
    rows = np.arange(32)
    collate(encoded, rows)
    begin = time.perf_counter()
    for _ in range(20):
        collate(encoded, rows, pixels=False)
    assert (time.perf_counter() - begin) / 20 / 32 < 250e-6
