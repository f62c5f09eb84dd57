"""Importance, teacher, recovery, proxy, answers and proof inputs, for every family."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.families import CASES, IMAGE
from support.questions import SAMPLES, read

from autoprune.data.chat import call_options, prompt_of, tokenizer_of
from autoprune.evaluation.generation import GenericEngine, Question, end_tokens
from autoprune.evaluation.packed import PackedEngine
from autoprune.evaluation.proxy import kl_to_dense
from autoprune.models.families import wrapper_of
from autoprune.models.files import processor_identity
from autoprune.models.proof import probe_inputs, reference_of
from autoprune.pruning.importance import measure
from autoprune.recovery.loop import Recovery
from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.recovery.teacher import build_teacher, open_teacher

NEW_TOKENS = 4


def questions() -> list[Question]:
    return [
        Question(f"{s.key}/{i}", t.question, partial(list, [s.image]), NEW_TOKENS)
        for s in SAMPLES
        for i, t in enumerate(s.turns)
    ]


@torch.no_grad()
def asked_alone(model: Any, processor: Any, question: Question, vision: bool) -> str:
    prompt = prompt_of(processor, question.text, int(vision))
    images = {"images": [list(question.images())]} if vision else {}
    options = call_options(processor, prompt)
    inputs = processor(text=[prompt], return_tensors="pt", **options, **images)
    inputs.pop("labels", None)
    tokenizer = tokenizer_of(processor)
    ends = end_tokens(model, tokenizer)
    made = model.generate(
        **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=ends, pad_token_id=0
    )
    new = made[0, inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("name", CASES)
def test_answers_equal_each_question_alone(name: str) -> None:
    model, processor, encoded = read(name)
    vision = CASES[name].vision
    expected = [asked_alone(model, processor, q, vision) for q in questions()]
    assert len(set(expected)) > 1  # the questions make a difference
    generic = GenericEngine(processor, batch_size=3)
    assert generic.answer(model, questions()) == expected
    if encoded.packed:
        rows = np.repeat(np.arange(len(SAMPLES)), [len(s.turns) for s in SAMPLES])
        numbers = [i + 1 for s in SAMPLES for i in range(len(s.turns))]
        places = {
            q.key: (int(row), number)
            for q, row, number in zip(questions(), rows, numbers, strict=True)
        }
        packed = PackedEngine(tokenizer_of(processor), encoded, places, batch_size=2)
        assert packed.answer(model, questions()) == expected


@pytest.mark.parametrize("name", CASES)
def test_importance_is_measured(name: str) -> None:
    model, _, encoded = read(name)
    found = measure(model, encoded, np.arange(len(encoded)), batch_size=2)
    for kind in ("weight_taylor_groups", "weight_taylor_channels", "magnitude_channels"):
        values = getattr(found, kind)
        assert np.isfinite(values).all()
        assert (values > 0).mean() > 0.9
    image, text = np.moveaxis(found.activation_channels, -1, 0)
    assert np.isfinite(text).all()
    assert np.isfinite(image).all() == CASES[name].vision
    assert np.isfinite(found.loss)
    assert found.answer_tokens == encoded.num_answer_tokens


@pytest.mark.parametrize("name", CASES)
def test_recovery_lowers_the_loss_and_leaves_the_tower(name: str) -> None:
    dense, _, encoded = read(name)
    cache = build_teacher(dense, encoded, batch_size=2)
    assert cache.hidden is not None
    assert (cache.features is not None) is (CASES[name].vision and encoded.packed)
    kept = encoded.without_pixels() if cache.features is not None else encoded
    rows = np.arange(len(encoded))
    apart = partial(kl_to_dense, encoded=kept, indices=rows, features=cache.features)
    apart = partial(apart, teacher_hidden=cache.hidden, teacher_head=cache.head_weight)
    apart = partial(apart, teacher_bias=cache.head_bias)
    assert apart(dense) < 1e-4

    model = copy.deepcopy(dense)
    with torch.no_grad():
        for layer in model.get_decoder().layers:
            for parameter in layer.parameters():
                parameter.mul_(0.8)
    damaged = apart(model)
    assert damaged > 1e-3
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    recipe = RecoveryRecipe(
        sft=0.0, hidden=1.0, kl=1.0, learning_rate=3e-3, batch_size=4, sample_passes=48
    )
    recovery = Recovery(model, kept, open_teacher(cache), recipe)
    curve = recovery.run().curve
    recovery.finish()
    assert curve[-1].loss < 0.9 * curve[0].loss
    assert apart(model) < damaged
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    row = wrapper_of(model.config)
    between = tuple(filter(None, (row.projector, *row.beside)))
    decoder = {id(p) for p in model.get_decoder().parameters()}
    decoder |= {id(p) for p in model.get_output_embeddings().parameters()}
    for path in between:
        assert any(n.startswith(path) for n in changed), f"{path} was not trained"
    for parameter_name, parameter in model.named_parameters():
        if not parameter_name.startswith(between or ("none",)) and id(parameter) not in decoder:
            assert parameter_name not in changed, "the vision tower is frozen"


@pytest.mark.parametrize("name", CASES)
def test_inputs_of_the_proof_are_the_processors_own(name: str) -> None:
    model, processor, _ = read(name)
    inputs = probe_inputs(model, processor)
    assert inputs["attention_mask"][0].all()
    assert not inputs["attention_mask"][1, 0]
    assert bool((inputs["input_ids"] == IMAGE).any(dim=1).all()) is CASES[name].vision
    found = reference_of(model, processor)
    assert torch.isfinite(found.logits).all()
    assert found.tokens.shape[1] > inputs["input_ids"].shape[1]
    kept = {n.removeprefix("made.") for n in found.processor["tensors"] if n.startswith("made.")}
    assert kept == (set(inputs) if CASES[name].vision else set())


@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_recovered_beside_trained_float32(name: str) -> None:
    """In every scope, and answers are asked for between two pieces; all is as before at the end."""
    dense, processor, encoded = read(name)
    half = copy.deepcopy(dense).to(torch.bfloat16)
    cache = build_teacher(half, encoded, batch_size=2)
    for scope in ("projector", "lora", "full")[not CASES[name].vision :]:
        recipe = RecoveryRecipe(hidden=1.0, scope=scope, batch_size=4, sample_passes=8, lora_rank=2)
        recovery = Recovery(copy.deepcopy(half), encoded, open_teacher(cache), recipe)
        assert np.isfinite(recovery.run(0.5).loss)
        assert GenericEngine(processor).answer(recovery.model, questions()[:1])
        assert np.isfinite(recovery.run().loss)
        made = recovery.finish()
        assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
        assert not any(module._forward_pre_hooks for module in made.modules())


def test_another_chat_template_is_another_reader(tmp_path: Path) -> None:
    """What is cached of a model is not taken for what it makes of other prompts."""
    folder = CASES["llava-llama"].saved(tmp_path / "model")
    before = processor_identity(folder)
    assert processor_identity(folder) == before
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("user:", "question:"))
    assert processor_identity(folder) != before
