"""The bridge to lmms-eval: exact scores, loud failures, same documents for everybody."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.data.encoding import encode
from autoprune.errors import AutoPruneError
from autoprune.evaluation.bridge import Evaluator
from autoprune.evaluation.generation import Question
from autoprune.evaluation.materials import materialise
from autoprune.evaluation.reading import read_score
from autoprune.evaluation.scores import EvaluationFailed, TaskScores
from autoprune.evaluation.tasks import TaskSpec, resolve_tasks
from autoprune.zoo import DigitSet, load_split

Tiny = Callable[..., Any]


class Oracle:
    """Answers by a rule from the question's key."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        self.rule = rule
        self.asked: list[Question] = []

    def answer(self, model: Any, questions: Iterable[Question]) -> list[str]:
        self.asked = list(questions)
        return [self.rule(question.key) for question in self.asked]


@pytest.fixture(scope="module")
def evaluator(processor: Any, task_dir: Path) -> Evaluator:
    return Evaluator(processor, task_dir, resolve_tasks())


@pytest.fixture
def truth(samples: DigitSet) -> dict[str, str]:
    return {f"{s.key}/{k}": turn.answer for s in samples for k, turn in enumerate(s.turns)}


def ask(evaluator: Evaluator, oracle: Any, monkeypatch: pytest.MonkeyPatch) -> TaskScores:
    monkeypatch.setattr(evaluator, "_engine", lambda features: oracle)
    return evaluator.evaluate(torch.nn.Identity())


def test_known_answers_give_the_exact_score(
    evaluator: Evaluator, truth: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = {key: sum(map(ord, key)) % 3 > 0 for key in truth}
    oracle = Oracle(lambda key: truth[key] if right[key] else "neither")
    scores = ask(evaluator, oracle, monkeypatch)
    assert scores.questions == len(truth) == evaluator.questions
    for task in scores.tasks:
        expected = [float(right[doc]) for doc in task.docs]
        assert task.values is not None
        np.testing.assert_array_equal(task.values, expected)
        assert task.score == pytest.approx(np.mean(expected), abs=1e-12)
        assert [doc.rsplit("/", 1)[0] for doc in task.docs] == task.images.tolist()
    assert sorted(doc for task in scores.tasks for doc in task.docs) == sorted(truth)


@pytest.mark.parametrize(("wrap", "score"), [("{}", 1.0), (" {}.\n\nMore", 1.0), ("{} {}", 0.0)])
def test_what_counts_as_the_answer(
    wrap: str,
    score: float,
    evaluator: Evaluator,
    truth: dict[str, str],
    processor: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def said(key: str) -> str:
        # The engines cut at the task's stop text; the oracle does as they do.
        return wrap.format(truth[key], truth[key]).split("\n\n")[0]

    oracle = Oracle(said)
    assert ask(evaluator, oracle, monkeypatch).average == score
    assert {q.until for q in oracle.asked} == {("\n\n",)}
    assert {q.max_new_tokens for q in oracle.asked} == {4}


def test_images_and_prompts_reach_the_engine(
    evaluator: Evaluator, samples: DigitSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = Oracle(lambda key: "")
    ask(evaluator, oracle, monkeypatch)
    by_key = {question.key: question for question in oracle.asked}
    for sample in list(samples)[:3]:
        for k, turn in enumerate(sample.turns):
            question = by_key[f"{sample.key}/{k}"]
            (image,) = question.images()
            assert question.text == turn.question
            np.testing.assert_array_equal(np.asarray(image), np.asarray(sample.image))


def test_a_missing_answer_is_an_error(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short:
        def answer(self, model: Any, questions: list[Question]) -> list[str]:
            return [""] * (len(questions) - 1)

    with pytest.raises(AutoPruneError, match="191 answers for 192"):
        ask(evaluator, Short(), monkeypatch)


@pytest.mark.parametrize("engine", ["packed", "generic"])
def test_a_broken_model_raises(tiny: Tiny, engine: Any, processor: Any, task_dir: Path) -> None:
    evaluator = Evaluator(processor, task_dir, resolve_tasks(["digits_read"]), engine=engine)
    model = tiny()
    layer = model.get_decoder().layers[1].mlp
    layer.down_proj = torch.nn.Linear(7, 32)
    with pytest.raises(RuntimeError, match="shapes"):
        evaluator.evaluate(model)


@pytest.mark.parametrize("engine", ["packed", "generic"])
def test_a_diverged_model_fails(tiny: Tiny, engine: Any, processor: Any, task_dir: Path) -> None:
    evaluator = Evaluator(processor, task_dir, resolve_tasks(["digits_read"]), engine=engine)
    model = tiny()
    with torch.no_grad():
        model.get_decoder().layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(EvaluationFailed, match="not finite"):
        evaluator.evaluate(model)


def test_generated_scores_equal_between_engines(
    half_taught: Any, processor: Any, task_dir: Path, evaluator: Evaluator
) -> None:
    packed = evaluator.evaluate(half_taught)
    cached = evaluator.evaluate(half_taught, evaluator.features(half_taught))
    generic = Evaluator(processor, task_dir, resolve_tasks(), engine="generic")
    other = generic.evaluate(half_taught)
    assert 0.1 < packed.average < 0.9
    assert packed.by_task == other.by_task == cached.by_task
    for a, b in zip(packed.tasks, other.tasks, strict=True):
        assert a.docs.tolist() == b.docs.tolist()
        np.testing.assert_array_equal(a.values, b.values)


def test_given_encoding_and_some_tasks(
    half_taught: Any, processor: Any, task_dir: Path, encoded: Any, evaluator: Evaluator
) -> None:
    specs = resolve_tasks(["digits_colour", "digits_sum"])
    full = evaluator.evaluate(half_taught)
    own = Evaluator(processor, task_dir, specs).evaluate(half_taught)
    given = Evaluator(processor, task_dir, specs, encoded=encoded)
    scores = given.evaluate(half_taught, given.features(half_taught))
    expected = {spec.name: full.by_task[spec.name] for spec in specs}
    assert own.by_task == scores.by_task == expected
    lean = Evaluator(processor, task_dir, specs, encoded=encoded.without_pixels())
    assert lean.evaluate(half_taught, given.features(half_taught)).by_task == expected
    with pytest.raises(AutoPruneError, match="no pixels"):
        lean.evaluate(half_taught)


def test_an_encoding_of_other_samples_is_refused(
    half_taught: Any, processor: Any, task_dir: Path, samples: DigitSet
) -> None:
    specs = resolve_tasks(["digits_read"])
    others = encode(load_split("confirm", len(samples)), processor)
    with pytest.raises(AutoPruneError, match="holds other answers than digits/search"):
        Evaluator(processor, task_dir, specs, encoded=others).evaluate(half_taught)
    fewer = encode(load_split("search", 5), processor)
    with pytest.raises(AutoPruneError, match="5 rows was given for 24 samples"):
        Evaluator(processor, task_dir, specs, encoded=fewer).evaluate(half_taught)


def test_repeated_evaluation_is_equal_and_leaves_the_model_as_it_was(
    half_taught: Any, evaluator: Evaluator
) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    half_taught.train()
    try:
        half_taught.model.vision_tower.eval()
        first, second = evaluator.evaluate(half_taught), evaluator.evaluate(half_taught)
        assert half_taught.training
        assert not half_taught.model.vision_tower.training
    finally:
        half_taught.eval()
    assert first.by_task == second.by_task
    assert torch.equal(before, torch.get_rng_state())


def test_fractions_are_seeded_nested_and_by_image(processor: Any, task_dir: Path) -> None:
    def images(fraction: float, seed: int) -> tuple[set[str], list[str]]:
        chosen = Evaluator(processor, task_dir, specs, fraction=fraction, seed=seed)
        docs = [doc for columns in chosen.docs.values() for doc in columns]
        found = {doc.rsplit("/", 1)[0] for doc in docs}
        assert chosen.images == len(found)
        return found, docs

    specs = resolve_tasks(["digits_relation", "digits_exist", "digits_count"])
    half, docs = images(0.5, 1)
    assert len(half) == 12
    assert images(0.5, 1) == (half, docs)
    assert images(0.75, 1)[0] > half
    assert images(0.5, 2)[0] != half
    everything = images(1.0, 1)[1]
    # All questions of a chosen image are asked.
    assert sorted(docs) == sorted(d for d in everything if d.rsplit("/", 1)[0] in half)


def test_a_subset_scores_its_own_documents(
    half_taught: Any, processor: Any, task_dir: Path, evaluator: Evaluator
) -> None:
    full = evaluator.evaluate(half_taught)
    some = Evaluator(processor, task_dir, resolve_tasks(), fraction=0.8, seed=5)
    part = some.evaluate(half_taught, some.features(half_taught))
    for a, b in zip(full.tasks, part.tasks, strict=True):
        by_doc = dict(zip(a.docs, a.values, strict=True))
        np.testing.assert_array_equal(b.values, [by_doc[doc] for doc in b.docs])
        assert len(b.docs) < len(a.docs)


def test_a_fraction_without_questions_is_refused(processor: Any, task_dir: Path) -> None:
    with pytest.raises(AutoPruneError, match="leaves no question for"):
        Evaluator(processor, task_dir, resolve_tasks(), fraction=0.04)


def test_a_task_that_is_not_there(processor: Any, samples: DigitSet, tmp_path: Path) -> None:
    directory = materialise(samples, resolve_tasks(["digits_read"]), tmp_path)
    with pytest.raises(AutoPruneError, match=r"digits_sum.*digits_read"):
        Evaluator(processor, directory, resolve_tasks(["digits_sum"]))
    with pytest.raises(AutoPruneError, match="holds no tasks"):
        Evaluator(processor, tmp_path, resolve_tasks(["digits_sum"]))


# --- reading lmms-eval's results ----------------------------------------------------------------

MME = TaskSpec("mme", ("a", "b"), maximum=2800.0)


def results(values: dict[str, Any], samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {"results": {"mme": values}, "samples": {"mme": samples}}


def test_summed_metrics_over_a_maximum() -> None:
    score = read_score(MME, results({"a,none": 1400, "b,none": 280.0}, []), [], [])
    assert score.score == pytest.approx(0.6)
    assert score.metric == "a+b"
    assert score.values is None


@pytest.mark.parametrize("bad", [None, [], "N/A", float("nan"), float("inf"), True])
def test_a_score_must_be_one_finite_number(bad: Any) -> None:
    with pytest.raises(AutoPruneError, match="one finite number"):
        read_score(MME, results({"a,none": 1.0, "b,none": bad}, []), [], [])


def test_a_missing_score_and_one_out_of_range() -> None:
    with pytest.raises(AutoPruneError, match="one finite number"):
        read_score(MME, results({"a,none": 1.0}, []), [], [])
    with pytest.raises(AutoPruneError, match="outside"):
        read_score(MME, results({"a,none": 2801.0, "b,none": 0.0}, []), [], [])


def test_values_come_from_numbers_or_scores_and_must_average_to_the_score() -> None:
    spec = TaskSpec("mme", ("a",), maximum=100.0, higher_is_better=False)
    logged = [{"doc_id": 1, "a": {"score": 80.0}}, {"doc_id": 0, "a": 40.0}]
    score = read_score(spec, results({"a,none": 60.0}, logged), ["x", "y"], ["i", "i"])
    assert score.score == pytest.approx(0.4)
    assert score.values is not None
    assert score.values.tolist() == pytest.approx([0.6, 0.2])
    other = read_score(spec, results({"a,none": 61.0}, logged), ["x", "y"], ["i", "i"])
    assert other.values is None


# --- the task directory -------------------------------------------------------------------------


def test_materialising_twice_writes_once(samples: DigitSet, tmp_path: Path) -> None:
    specs = resolve_tasks(["digits_read", "digits_where"])
    first = materialise(samples, specs, tmp_path)
    stamp = (first / "digits_read.parquet").stat().st_mtime_ns
    assert materialise(samples, specs, tmp_path) == first
    assert (first / "digits_read.parquet").stat().st_mtime_ns == stamp
    other = materialise(load_split("search", 25), specs, tmp_path)
    assert other != first


def test_many_at_once(samples: DigitSet, tmp_path: Path) -> None:
    specs = resolve_tasks(["digits_read"])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: materialise(samples, specs, tmp_path), range(4)))
    assert len(set(found)) == 1
    assert [path.name for path in (tmp_path / "tasks").iterdir()] == [found[0].name]


def test_what_cannot_be_materialised(samples: DigitSet, tmp_path: Path) -> None:
    with pytest.raises(AutoPruneError, match="'gqa' brings its own data"):
        materialise(samples, resolve_tasks(["gqa"]), tmp_path)
    with pytest.raises(AutoPruneError, match="no question of family 'maps'"):
        materialise(samples, [TaskSpec("maps", family="maps")], tmp_path)
    assert not list(tmp_path.rglob("*.parquet"))


def test_task_names() -> None:
    assert {"digits_read", "digits_sum"} <= {spec.name for spec in resolve_tasks()}
    assert resolve_tasks(["mme"])[0].maximum == 2800.0
    assert resolve_tasks(["digits"]) == resolve_tasks()
    with pytest.raises(AutoPruneError, match="did you mean 'digits_read'"):
        resolve_tasks(["digit_read"])
    with pytest.raises(AutoPruneError, match="named twice"):
        resolve_tasks(["digits", "digits_read"])
    with pytest.raises(AutoPruneError, match="at least one"):
        resolve_tasks([])


# --- manners ------------------------------------------------------------------------------------


def test_quiet_and_offline(
    half_taught: Any,
    processor: Any,
    samples: DigitSet,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    specs = resolve_tasks(["digits_read"])
    Evaluator(processor, materialise(samples, specs, tmp_path), specs).evaluate(half_taught)
    out, err = capfd.readouterr()
    assert out == ""
    assert "it/s" not in err
    assert "INFO" not in err


def test_one_rank_of_many_asks_everything(
    evaluator: Evaluator, truth: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    scores = ask(evaluator, Oracle(truth.__getitem__), monkeypatch)
    assert scores.questions == len(truth)
    assert scores.average == 1.0
    assert os.environ["RANK"] == "2"


def test_lmms_eval_is_not_imported_before_it_is_used() -> None:
    code = (
        "import sys, autoprune.evaluation.bridge, autoprune.evaluation.retention; "
        "sys.exit('lmms_eval' in sys.modules or 'datasets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
