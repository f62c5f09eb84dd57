"""A conversation is one row with labels on all its answers, read as the model itself does."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.families import BOS, CASES, IMAGE, build_model
from support.questions import SAMPLES, apart, states
from support.talks import HIGH, SQUARE, TALKS, by_hand, losses, losses_by_hand, shown

from autoprune.data.encoding import IGNORED, collate, encode, encode_for
from autoprune.data.images import Kept, LazyTiles, MadeAgain
from autoprune.data.samples import Sample, Turn
from autoprune.errors import AutoPruneError

# A template of its own form has no conversations (PaliGemma).
FAMILIES = [name for name, case in CASES.items() if case.wrapper != "paligemma"]


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Every family, and a LLaVA that cannot pack, since its decoder looks back a few tokens."""
    return [*((name, {}) for name in FAMILIES), ("llava-mistral", {"sliding_window": 8})]


@pytest.mark.parametrize(("name", "text"), cases(), ids=lambda value: str(value))
def test_a_row_is_the_models_own_reading_of_the_conversation(
    name: str, text: dict[str, Any]
) -> None:
    case = CASES[name]
    model, processor = build_model(case.config(**text)), case.processor()
    encoded = encode_for(model.config, TALKS, processor, pixel_dtype=np.float32)
    samples = shown(TALKS, case.vision)
    assert len(encoded) == len(samples)
    tokenizer = getattr(processor, "tokenizer", processor)
    for row, sample in enumerate(samples):
        span = slice(*encoded.offsets[row : row + 2])
        made, labels = by_hand(processor, sample)
        assert encoded.input_ids[span].tolist() == made["input_ids"][0].tolist()
        assert encoded.labels[span].tolist() == labels.tolist()
        said = encoded.labels[span]
        answers = "</s>".join(turn.answer for turn in sample.turns) + "</s>"
        assert tokenizer.decode(said[said != IGNORED]).split() == (
            answers.replace("</s>", " </s> ").split()
        )
    expected = [losses_by_hand(model, processor, sample) for sample in samples]
    for row, one in enumerate(expected):
        torch.testing.assert_close(losses(model, encoded, [row]), one, rtol=1e-4, atol=1e-4)
    together = losses(model, encoded, [2, 0, 1])
    wanted = torch.cat([expected[2], expected[0], expected[1]])
    torch.testing.assert_close(together, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in FAMILIES if CASES[name].vision])
def test_each_image_lands_on_its_own_tokens(name: str) -> None:
    """Another second image changes what is said behind it, and nothing before."""
    case = CASES[name]
    model, processor = build_model(case.config()), case.processor()
    first = TALKS[0]
    other = replace(first, more=(HIGH,))
    # Not all families make as many tokens of any image, but the first answer comes before it.
    one, two = (
        losses(model, encode_for(model.config, [s], processor, pixel_dtype=np.float32), [0])
        for s in (first, other)
    )
    torch.testing.assert_close(one[:2], two[:2], rtol=1e-4, atol=1e-4)
    assert (one[2:] - two[2:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["paligemma-gemma"])
def test_a_processor_without_conversations_is_asked_turn_by_turn(name: str) -> None:
    case = CASES[name]
    model, processor = build_model(case.config()), case.processor()
    with pytest.raises(AutoPruneError, match="'text' has no image"):
        encode_for(model.config, TALKS, processor)
    encoded = encode_for(model.config, TALKS[::2], processor, pixel_dtype=np.float32)
    assert encoded.samples.tolist() == [0, 0, 0, 1]
    shown = np.add.reduceat(encoded.input_ids == IMAGE, encoded.offsets[:-1])
    assert shown.tolist() == [8, 8, 8, 8]
    alone = replace(TALKS[2], together=False)
    same = encode_for(model.config, [alone], processor, pixel_dtype=np.float32)
    assert encoded.input_ids[encoded.offsets[3] :].tolist() == same.input_ids.tolist()
    made = processor(
        text=[processor.image_token * 2 + "answer en is 3 on the left ?"],
        images=[[HIGH, SQUARE]], suffix=["yes"], return_tensors="pt",
    )  # fmt: skip
    assert same.input_ids.tolist() == made["input_ids"][0].tolist()
    logits = model(**{n: v for n, v in made.items() if n != "labels"}).logits[0]
    labels = made["labels"][0]
    expected = torch.nn.functional.cross_entropy(
        logits[:-1], labels[1:], reduction="none", ignore_index=IGNORED
    )[labels[1:] != IGNORED]
    torch.testing.assert_close(losses(model, same, [0]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llava-llama", "internvl-qwen2", "gemma3-gemma3_text"])
def test_independent_questions_may_share_several_images(name: str) -> None:
    """Each is asked as a conversation of its own, with all images before it."""
    case = CASES[name]
    model, processor = build_model(case.config()), case.processor()
    questions = (Turn("how many ?", "7", "a"), Turn("what is the digit ?", "3", "a"))
    both = Sample("both", SQUARE, questions, more=(HIGH,))
    encoded = encode_for(model.config, [both], processor, pixel_dtype=np.float32)
    assert encoded.samples.tolist() == [0, 0]
    assert len({tuple(row) for row in encoded.image_rows.tolist()}) == 1
    for row, turn in enumerate(questions):
        talk = Sample("one", SQUARE, (replace(turn, marks=(0, 0)),), (HIGH,), together=True)
        wanted = losses_by_hand(model, processor, talk)
        torch.testing.assert_close(losses(model, encoded, [row]), wanted, rtol=1e-4, atol=1e-4)


NO_END = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def test_answers_end_where_the_template_has_no_end() -> None:
    """Each answer gets the tokenizer's end token; an image behind it is not taken for one."""
    processor = CASES["llava-llama"].processor()
    processor.chat_template = NO_END
    encoded = encode([TALKS[0]], processor)
    words = processor.tokenizer.convert_ids_to_tokens(encoded.input_ids)
    said = [word for word, label in zip(words, encoded.labels, strict=True) if label != IGNORED]
    assert said == ["3", "</s>", "red", "7", "</s>", "2", "</s>"]
    assert words.count("</s>") == 3
    assert words[words.index("3") + 1 : words.index("3") + 3] == ["</s>", "user:"]
    assert encoded.positions.tolist() == list(range(len(words)))


def test_only_answers_that_were_given_are_found() -> None:
    """The second question holds the first answer, and an answer stands in a question before it."""
    turns = (
        Turn("is 3 red ?", "3", "a"), Turn("3 ?", "red", "a"), Turn("red 3 red ?", "3", "a"),
    )  # fmt: skip
    processor = CASES["llama"].processor()
    encoded = encode([Sample("text", None, turns, together=True)], processor)
    words = processor.convert_ids_to_tokens(encoded.input_ids)
    labels = [word for word, label in zip(words, encoded.labels, strict=True) if label != IGNORED]
    assert labels == ["3", "</s>", "red", "</s>", "3", "</s>"]
    at = np.flatnonzero(encoded.labels != IGNORED)
    assert all(words[place - 1] == "assistant:" for place in at[::2])
    assert words[0] == "<s>"
    assert words.count("<s>") == 1
    assert encoded.input_ids[0] == BOS


@pytest.mark.parametrize("name", ["llava-llama", "qwen2_vl-qwen2_vl_text", "llama"])
def test_long_conversations_end_with_a_whole_turn(name: str) -> None:
    case = CASES[name]
    model, processor = build_model(case.config()), case.processor()
    whole = encode_for(model.config, TALKS, processor, pixel_dtype=np.float32)
    first, second, _ = np.diff(whole.offsets)
    samples = shown(TALKS, case.vision)
    short = encode_for(model.config, TALKS, processor, pixel_dtype=np.float32, longest=first - 1)
    assert (short.cut, short.left_out) == (1, 0)
    cut = encode_for(model.config, [samples[0].upto(2), *samples[1:]], processor,
                     pixel_dtype=np.float32)  # fmt: skip
    assert short.input_ids.tolist() == cut.input_ids.tolist()
    assert short.labels.tolist() == cut.labels.tolist()
    torch.testing.assert_close(losses(model, short, [0]), losses(model, cut, [0]))
    least = encode_for(model.config, TALKS, processor, longest=int(second))
    assert least.left_out + least.cut >= 1
    assert np.diff(least.offsets).max() <= second
    assert 1 in least.samples
    with pytest.raises(AutoPruneError, match="all 3 samples are longer than 3 tokens"):
        encode_for(model.config, TALKS, processor, longest=3)


@pytest.mark.parametrize("name", ["llava-llama", "internvl-qwen2"])
def test_pixels_beyond_the_limit_are_made_again(name: str) -> None:
    case = CASES[name]
    model, processor = build_model(case.config()), case.processor()
    mixed = [*SAMPLES, *TALKS]
    kept = encode_for(model.config, mixed, processor, pixel_dtype=np.float32)
    lean = encode_for(model.config, mixed, processor, pixel_dtype=np.float32, keep=100)
    assert isinstance(kept.pixel_values, np.ndarray)
    assert isinstance(lean.pixel_values, LazyTiles)
    assert len(lean.pixel_values) == len(kept.pixel_values)
    assert lean.pixel_values.nbytes < kept.pixel_values.nbytes
    again = pickle.loads(pickle.dumps(lean))
    assert again.identity == lean.identity != kept.identity
    np.testing.assert_array_equal(again.pixel_values[:], kept.pixel_values)
    for rows in ([0], [3, 1], [4], [5, 3, 0]):
        one, two = collate(kept, rows), collate(again, rows)
        assert (one.pixel_values is None) == (two.pixel_values is None)
        if one.pixel_values is not None and two.pixel_values is not None:
            assert torch.equal(one.pixel_values, two.pixel_values)
    assert apart(states(model, lean, 3), states(model, kept, 3)) < 1e-6


@pytest.mark.parametrize(
    "name",
    ["llava_next-llama", "llava_onevision-qwen2", "idefics3-llama", "qwen3_vl-qwen3_vl_text"],
)
def test_images_of_a_sample_are_made_again_together(name: str) -> None:
    case = CASES[name]
    model, processor = build_model(case.config()), case.processor()
    kept = encode_for(model.config, TALKS, processor, pixel_dtype=np.float32)
    lean = encode_for(model.config, TALKS, processor, pixel_dtype=np.float32, keep=1)
    assert isinstance(kept.shown, Kept)
    assert isinstance(lean.shown, MadeAgain)
    assert len(kept.shown) == len(lean.shown) == 2
    assert kept.image_rows.tolist() == [[0, 1], [1, 1], [1, 2]]
    there = pickle.loads(pickle.dumps(lean))
    for rows in ([0], [2, 1, 0], [1]):
        one, two = collate(kept, rows), collate(there, rows)
        assert one.inputs.keys() == two.inputs.keys()
        assert all(torch.equal(one.inputs[key], two.inputs[key]) for key in one.inputs)


def test_marks_and_images_must_agree() -> None:
    processor = CASES["llava-llama"].processor()
    broken = replace(TALKS[2], more=())
    with pytest.raises(AutoPruneError, match=r"shows 2 of the 1 images of .*two at once"):
        encode([broken], processor)
    silent = copy.deepcopy(processor)
    silent.chat_template = NO_END.replace("<image>", "")
    with pytest.raises(AutoPruneError, match="shows 0 of the 2 images"):
        encode([TALKS[2]], silent)
