"""Two ways to the same answers."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.data.encoding import EncodedSet
from autoprune.errors import AutoPruneError
from autoprune.evaluation.generation import (
    GenericEngine,
    Question,
    end_tokens,
    finish,
)
from autoprune.evaluation.packed import PackedEngine, select_prompts
from autoprune.models.arrays import state_arrays
from autoprune.models.shape import spec_of
from autoprune.pruning.plan import LayerPlan, PruningPlan
from autoprune.pruning.surgery import prune
from autoprune.zoo import DigitSet

Tiny = Callable[..., Any]


def questions_of(samples: DigitSet, limit: int = 4) -> list[Question]:
    def shown(index: int) -> Any:
        return lambda: [samples[index].image]

    return [
        Question(f"{i}/{k}", turn.question, shown(i), limit + k % 2)
        for i in range(len(samples))
        for k, turn in enumerate(samples[i].turns)
    ]


def places_of(samples: DigitSet) -> dict[str, tuple[int, int]]:
    return {
        f"{i}/{k}": (i, k + 1) for i in range(len(samples)) for k in range(len(samples[i].turns))
    }


def shaken(model: Any, strength: float) -> Any:
    """A copy that stammers: some answers end at once, and some run on."""
    copy = deepcopy(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in copy.get_decoder().parameters():
            if weight.dim() > 1:
                weight.add_(torch.randn_like(weight) * weight.std() * strength)
    return copy


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("strength", "various"), [(0.0, 5), (1.0, 20), (1.5, 50)])
def test_packed_equals_generate(
    strength: float,
    various: int,
    attention: str,
    half_taught: Any,
    samples: DigitSet,
    processor: Any,
    encoded: EncodedSet,
) -> None:
    model = shaken(half_taught, strength)
    model.set_attn_implementation(attention)
    questions = questions_of(samples)
    packed = PackedEngine(processor.tokenizer, encoded, places_of(samples), batch_size=5)
    ours = packed.answer(model, questions)
    assert ours == GenericEngine(processor, batch_size=7).answer(model, questions)
    assert len(set(ours)) > various
    if strength:
        # They end by themselves, early and late, and are cut at both limits.
        assert {len(answer.split()) for answer in ours} >= {1, 2, 3, 4, 5}


ALL = tuple(range(48))


@pytest.mark.parametrize(
    "layers",
    [
        (LayerPlan(0, (), ALL), LayerPlan(1, (0, 1), ALL)),
        (LayerPlan(0, (1,), (3, 9)), LayerPlan(1, (), (5, 7))),
        (LayerPlan(1, (0,), ()),),
    ],
)
def test_packed_equals_generate_when_pruned(
    layers: tuple[LayerPlan, ...],
    half_taught: Any,
    samples: DigitSet,
    processor: Any,
    encoded: EncodedSet,
) -> None:
    """Layers without attention keep the cache in step too."""
    dense = shaken(half_taught, 1.5)
    plan = PruningPlan("llama", spec_of(dense).identity, 2, 1, layers)
    model = prune(dense.config, state_arrays(dense), plan)
    questions = questions_of(samples)
    ours = PackedEngine(processor.tokenizer, encoded, places_of(samples)).answer(model, questions)
    assert ours == GenericEngine(processor).answer(model, questions)
    assert max(len(answer.split()) for answer in ours) == 5


def test_order_and_company_do_not_matter(
    half_taught: Any, samples: DigitSet, processor: Any, encoded: EncodedSet
) -> None:
    questions = questions_of(samples)
    engine = PackedEngine(processor.tokenizer, encoded, places_of(samples))
    whole = engine.answer(half_taught, questions)
    order = np.random.default_rng(0).permutation(len(questions))[:50]
    some = engine.answer(half_taught, [questions[i] for i in order])
    assert some == [whole[i] for i in order]
    twice = engine.answer(half_taught, [questions[3], questions[3]])
    assert twice == [whole[3]] * 2


def test_reference_answers_are_not_looked_at(
    half_taught: Any, samples: DigitSet, processor: Any, encoded: EncodedSet
) -> None:
    from dataclasses import replace

    blind = replace(
        encoded, input_ids=np.where(encoded.labels >= 0, 0, encoded.input_ids).astype(np.int32)
    )
    places, questions = places_of(samples), questions_of(samples)
    seeing = PackedEngine(processor.tokenizer, encoded, places).answer(half_taught, questions)
    assert PackedEngine(processor.tokenizer, blind, places).answer(half_taught, questions) == seeing


def test_prompts_are_what_generate_is_given(
    samples: DigitSet, processor: Any, encoded: EncodedSet
) -> None:
    """Image tokens apart, prefix and question spell the chat template's prompt."""
    prompts = select_prompts(encoded, [(2, 3)])
    content = [{"type": "image"}, {"type": "text", "text": samples[2].turns[2].question}]
    asked = {"role": "user", "content": content}
    text = processor.apply_chat_template([asked], add_generation_prompt=True)
    expected = processor(text=[text], images=[[samples[2].image]], add_special_tokens=False)
    assert prompts.input_ids.tolist() == expected["input_ids"][0]
    assert prompts.positions.tolist() == list(range(len(prompts.input_ids)))
    assert prompts.samples.tolist() == [2]


def test_an_unknown_question_is_refused(
    half_taught: Any, processor: Any, encoded: EncodedSet
) -> None:
    engine = PackedEngine(processor.tokenizer, encoded, {})
    with pytest.raises(AutoPruneError, match="'9/9' is not in the encoded set"):
        engine.answer(half_taught, [Question("9/9", "?", list)])


def test_ends(tiny: Tiny, processor: Any) -> None:
    model = tiny()
    model.generation_config.eos_token_id = [2, 7]
    assert end_tokens(model, processor.tokenizer) == [2, 7]
    model.generation_config.eos_token_id = None
    assert end_tokens(model, processor.tokenizer) == [processor.tokenizer.eos_token_id]


def test_finish_cuts_at_the_first_stop(processor: Any) -> None:
    tokenizer = processor.tokenizer
    tokens = tokenizer("yes no", add_special_tokens=False)["input_ids"]
    assert finish(tokenizer, [*tokens, tokenizer.eos_token_id], []) == "yes no"
    assert finish(tokenizer, tokens, [" no", ""]) == "yes"


def test_text_alone(half_taught: Any, processor: Any) -> None:
    """A question without an image goes through both engines too."""
    from autoprune.data.encoding import encode
    from autoprune.data.samples import Sample, Turn

    turns = (Turn("What digit is at the top?", "3", "x"), Turn("Where is the 4?", "top", "x"))
    encoded = encode([Sample("t", None, turns)], processor)
    questions = [Question(f"t/{k}", turn.question, list) for k, turn in enumerate(turns)]
    engine = PackedEngine(processor.tokenizer, encoded, {"t/0": (0, 1), "t/1": (0, 2)})
    with torch.no_grad():
        assert engine.answer(half_taught, questions) == GenericEngine(processor).answer(
            half_taught, questions
        )
