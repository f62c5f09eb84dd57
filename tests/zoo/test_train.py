"""The training command: a few steps write a checkpoint that stock transformers loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autoprune.zoo.curriculum import CURRICULUM, EXERCISES, STATEMENT, lesson
from autoprune.zoo.model import build_tokenizer
from autoprune.zoo.packing import pack
from autoprune.zoo.questions import FAMILIES
from autoprune.zoo.scenes import dice_of, draw_scene
from autoprune.zoo.train import Settings, main, train


def lessons(stage, number: int = 200):
    for index in range(number):
        dice = dice_of("train", index)
        scene = draw_scene("train", index, dice)
        yield scene, lesson(scene, dice, stage)


def test_the_curriculum_ends_with_the_families_alone() -> None:
    sources = [{turn[2] for _, turns in lessons(stage) for turn in turns} for stage in CURRICULUM]
    assert sources[0] == {STATEMENT}
    assert sources[1] == set(FAMILIES) | set(EXERCISES)
    assert sources[-1] == set(FAMILIES)


def test_statements_are_true_and_in_the_vocabulary() -> None:
    vocabulary = build_tokenizer().get_vocab()
    for scene, turns in lessons(CURRICULUM[0], 50):
        digits = {str(item.digit) for item in scene}
        for _, statement, _ in turns:
            spoken = statement.split()
            assert all(word in vocabulary for word in spoken)
            assert {word for word in spoken if word.isdigit()} <= digits


def test_words_of_a_statement_predict_one_another() -> None:
    packed = pack([[("", "7 red center", STATEMENT), ("Where is the 7?", "center", "where")]], ())
    tokenizer = build_tokenizer()
    said = tokenizer.convert_ids_to_tokens(packed.answers[0].tolist())
    before = tokenizer.convert_ids_to_tokens(packed.ids[0, packed.places[0]].tolist())
    assert said == ["red", "center", "center"]
    assert before == ["7", "red", "ASSISTANT"]
    assert packed.segments[0, packed.prefix - 1 :].tolist() == [0, 1, 1, 1, *[2] * 6]


SHORT = ["--steps", "8", "--tower-steps", "4", "--batch", "4", "--threads", "1"]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_command_writes_a_loadable_checkpoint(tmp_path: Path, capsys, threads) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    main(["--seed", "3", "--out", str(tmp_path / "model"), *SHORT])
    model, info = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "model", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    AutoProcessor.from_pretrained(tmp_path / "model", backend="pil")
    said = capsys.readouterr().out
    for part in ("tower 4/4", "backbone 8/8", "min left", "average", "two_hop", "wrote"):
        assert part in said


def test_a_seed_trains_one_model_and_another_seed_another(tmp_path: Path, threads) -> None:
    from safetensors.numpy import load_file

    torch.set_num_threads(1)
    short = Settings(tower_steps=2, steps=6, batch=2, variants=1)
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tmp_path / name, seed, short)
        found.append(load_file(tmp_path / name / "model.safetensors"))
    first, second, other = found
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert not all(np.array_equal(first[key], other[key]) for key in first)
