"""Every family reads its rows as its own processor and forward pass would, one question alone."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.families import BOS, CASES, EOS, IMAGE, build_model
from support.questions import SAMPLES, alone, apart, read, states, states_alone

from autoprune.data.encoding import IGNORED, EncodedSet, collate, encode, encode_for
from autoprune.data.images import Kept, MadeAgain
from autoprune.data.ragged import Ragged
from autoprune.data.samples import without_images
from autoprune.errors import AutoPruneError
from autoprune.models.reading import attention_window, packs

PACKED = {"llava", "internvl", "llama", "qwen2", "qwen3", "phi", "phi3", "gemma", "mistral"}


@pytest.mark.parametrize("name", CASES)
def test_a_batch_equals_each_question_alone(name: str) -> None:
    model, processor, encoded = read(name)
    assert encoded.packed is (CASES[name].wrapper in PACKED)
    assert encoded.whole is not encoded.packed
    expected = states_alone(model, processor, CASES[name].vision)
    assert len(expected) == encoded.num_answer_tokens == 9
    for size in (8, 1):
        assert apart(states(model, encoded, size), expected) < 1e-5


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.vision])
def test_model_and_processor_agree_on_the_image_token(name: str) -> None:
    model, processor, _ = read(name)
    config = copy.deepcopy(model.config)
    config.image_token_id = IMAGE - 1
    with pytest.raises(AutoPruneError, match=f"token {IMAGE} to the processor and token 59"):
        encode_for(config, SAMPLES, processor)


@pytest.mark.parametrize("name", ["llava-llama", "qwen2"])
def test_a_damaged_chat_template_is_said(name: str) -> None:
    model, processor, _ = read(name)
    damaged = copy.deepcopy(processor)
    damaged.chat_template = "{% for message %}"
    with pytest.raises(AutoPruneError, match=r"chat template .* copy it again"):
        encode_for(model.config, SAMPLES, damaged)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.vision])
def test_another_image_gives_other_states(name: str) -> None:
    """Negative control: image tensors reach the answers, each its own image's."""
    model, processor, encoded = read(name)
    first, *rest = SAMPLES
    swapped = [replace(first, image=SAMPLES[2].image), *rest]
    other = encode_for(model.config, swapped, processor, pixel_dtype=np.float32)
    one, two = states(model, encoded), states(model, other)
    questions = len(first.turns) * 2  # one token and the end of each answer
    assert apart(two[:questions], one[:questions]) > 1e-3
    assert apart(two[questions:], one[questions:]) < 1e-5


WINDOWS = [
    ("mistral", {"sliding_window": 8}, 8),
    ("mistral", {"sliding_window": None}, None),
    ("mistral", {"sliding_window": 4096}, 4096),
    ("llava-mistral", {"sliding_window": 8}, 8),
    ("llava-phi3", {"sliding_window": 8}, 8),
    ("internvl-phi3", {"sliding_window": 2047}, 2047),
    ("qwen2", {"sliding_window": 8, "use_sliding_window": False}, None),
    ("qwen2", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}, 8),
    ("llava-qwen2", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0}, 8),
    ("gemma3_text", {}, 4),
    ("gemma3_text", {"sliding_window": 512}, 512),
]


@pytest.mark.parametrize(
    ("name", "text", "window"), WINDOWS, ids=[f"{n}-{w}-{i}" for i, (n, _, w) in enumerate(WINDOWS)]
)
def test_attention_windows_are_honoured(
    name: str, text: dict[str, Any], window: int | None
) -> None:
    """A block mask would take a window's place, so rows that meet one are read whole."""
    case = CASES[name]
    model, processor = build_model(case.config(**text)), case.processor()
    assert attention_window(model.config) == window
    encoded = encode_for(model.config, SAMPLES, processor, pixel_dtype=np.float32)
    short = window is not None and window < 100
    assert encoded.whole is short
    expected = states_alone(model, processor, case.vision)
    assert apart(states(model, encoded), expected) < 1e-5
    if short:  # negative control: packed, the same model looks further than it should
        samples = SAMPLES if case.vision else without_images(SAMPLES)
        packed = encode(samples, processor, pixel_dtype=np.float32)
        assert apart(states(model, packed), expected) > 1e-3


def test_rows_may_be_packed_up_to_a_window() -> None:
    config = CASES["mistral"].config(sliding_window=100)
    assert packs(config)
    assert packs(config, 36)
    assert not packs(config, 37)  # an answer to come would pass it
    assert not packs(CASES["gemma3-gemma3_text"].config())


def test_several_tiles_of_an_image_are_packed() -> None:
    _, _, encoded = read("internvl-qwen2")
    assert encoded.image_rows.tolist() == [[0, 1], [1, 4], [4, 7]]  # two tiles and a thumbnail
    assert encoded.pixel_values is not None
    assert encoded.pixel_values.shape == (7, 3, 32, 32)
    assert encoded.image_tokens == pytest.approx((4 + 12 + 12) / 3)


def test_a_family_without_chat_template_is_asked_in_its_form() -> None:
    _, processor, encoded = read("paligemma-gemma")
    ids = processor.tokenizer.convert_tokens_to_ids
    begin, end = encoded.offsets[:2]
    words = ["answer", "en", "what", "is", "the", "digit", "?", "\n"]
    prompt = [IMAGE] * 4 + [BOS] + [ids(word) for word in words]
    assert encoded.input_ids[begin:end].tolist() == [*prompt, ids("3"), EOS]
    assert encoded.labels[begin:end].tolist() == [IGNORED] * len(prompt) + [ids("3"), EOS]
    assert encoded.types["token_type_ids"][begin:end].tolist() == [0] * len(prompt) + [1, 1]


@pytest.mark.parametrize("name", ["qwen2_5_vl-qwen2_5_vl_text", "idefics3-llama"])
def test_a_whole_set_travels_uncopied_and_is_known_by_its_content(name: str) -> None:
    model, processor, encoded = read(name)
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(encoded, protocol=5, buffer_callback=buffers.append)
    there = pickle.loads(data, buffers=buffers)
    assert np.shares_memory(pixels_of(there), pixels_of(encoded))
    assert there.identity == encoded.identity
    fewer = encode_for(model.config, SAMPLES[:2], processor, pixel_dtype=np.float32)
    assert fewer.identity != encoded.identity
    with pytest.raises(AutoPruneError, match="no pixels"):
        collate(encoded.without_pixels(), [0])


def pixels_of(encoded: EncodedSet) -> np.ndarray:
    assert isinstance(encoded.shown, Kept)
    return encoded.shown.tensors["pixel_values"].values


@pytest.mark.parametrize("name", ["gemma3-gemma3_text", "idefics3-llama", "qwen2_vl-qwen2_vl_text"])
def test_images_that_are_too_much_to_keep_are_processed_again(name: str) -> None:
    model, processor, encoded = read(name)
    lean = encode_for(model.config, SAMPLES, processor, pixel_dtype=np.float32, keep=1000)
    assert isinstance(lean.shown, MadeAgain)
    assert encoded.shown is not None
    assert lean.shown.nbytes == sum(3 * s.image.height * s.image.width for s in SAMPLES if s.image)
    assert lean.shown.nbytes < encoded.shown.nbytes
    assert len(lean.shown) == len(encoded.shown) == 3
    there = pickle.loads(pickle.dumps(lean))
    assert there.identity == lean.identity != encoded.identity
    one, two = collate(encoded, [3, 0, 1]), collate(there, [3, 0, 1])
    assert one.inputs.keys() == two.inputs.keys()
    assert all(torch.equal(one.inputs[name], two.inputs[name]) for name in one.inputs)
    enough = encode_for(model.config, SAMPLES, processor, keep=10**9)
    assert isinstance(enough.shown, Kept)


@pytest.mark.parametrize("name", ["qwen3_vl-qwen3_vl_text", "smolvlm-llama", "llava_next-llama"])
def test_a_row_is_what_the_processor_makes(name: str) -> None:
    """Of any batch and order, tensor by tensor; tiles are filled up with zeros."""
    _, processor, encoded = read(name)
    batch = collate(encoded, [3, 0])
    for row, (sample, turn) in enumerate(((2, 0), (0, 0))):
        made, _ = alone(processor, SAMPLES[sample], SAMPLES[sample].turns[turn], True)
        length = made["input_ids"].shape[1]
        assert batch.input_ids[row, :length].tolist() == made["input_ids"][0].tolist()
        if "mm_token_type_ids" in made:
            kinds = batch.inputs["mm_token_type_ids"][row, :length]
            assert kinds.tolist() == made["mm_token_type_ids"][0].tolist()
        if "image_grid_thw" in made:
            assert (
                batch.inputs["image_grid_thw"][row].tolist() == made["image_grid_thw"][0].tolist()
            )
        if "pixel_values" in encoded.stacked:
            tiles = made["pixel_values"][0]
            assert torch.equal(batch.inputs["pixel_values"][row, : len(tiles)], tiles)
            assert not batch.inputs["pixel_values"][row, len(tiles) :].any()
    if not encoded.stacked:
        grids = batch.inputs["image_grid_thw"]
        assert len(batch.inputs["pixel_values"]) == int(grids.prod(dim=1).sum())


def test_ragged_items() -> None:
    items = [np.arange(2)[:, None], np.arange(5)[:, None], np.zeros((0, 1), dtype=np.int64)]
    ragged = Ragged.of(items)
    assert len(ragged) == 3
    assert ragged.joined(np.array([1, 0, 2]))[:, 0].tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert ragged.stacked(np.array([0, 1]))[..., 0].tolist() == [[0, 1, 0, 0, 0], [0, 1, 2, 3, 4]]
    with pytest.raises(AutoPruneError, match="several sizes"):
        Ragged.of([np.zeros((1, 2)), np.zeros((1, 3))])


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.vision])
def test_an_image_is_prepared_once_for_all_its_questions(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor, encoded = read(name)
    own = processor.image_processor
    inner, calls = type(own).__call__, []

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(self)
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(type(own), "__call__", counted)
    again = encode_for(model.config, SAMPLES, processor, pixel_dtype=np.float32)
    assert again.identity == encoded.identity
    assert processor.image_processor is own
    if encoded.whole:
        assert len(calls) == len(SAMPLES)
