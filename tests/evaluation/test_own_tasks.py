"""A user's own YAML tasks on a model that can do them, and what keeps a task from being asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.benchmarks import write
from support.yaml_tasks import CHOOSE, READ, write_tasks

from autoprune.errors import AutoPruneError
from autoprune.evaluation.asked import asked_in
from autoprune.evaluation.bridge import Evaluator
from autoprune.evaluation.capabilities import CAPABILITIES
from autoprune.evaluation.catalogue import entries
from autoprune.evaluation.external import tried
from autoprune.evaluation.keys import check_key, keys_of
from autoprune.evaluation.likelihood import Given, losses
from autoprune.evaluation.materials import materialise
from autoprune.evaluation.pools import choose, pool_of
from autoprune.evaluation.tasks import BENCHMARKS, resolve_tasks
from autoprune.models.loading import load_model
from autoprune.zoo import EMBEDDED, embedded_path, load_split


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tasks(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def trained() -> Any:
    return load_model(EMBEDDED, torch.float32, "cpu", named={EMBEDDED: embedded_path})


def test_a_trained_model_on_two_yaml_tasks(
    files: tuple[Path, Path], trained: Any, tmp_path: Path
) -> None:
    specs = [tried(spec) for spec in resolve_tasks(map(str, files))]
    read, choice = specs
    assert (read.chance, read.capabilities, read.maximum) == (0.1, ("reading",), 1.0)
    assert (choice.chance, choice.metrics) == (0.5, ("acc",))
    folder = materialise(None, specs, tmp_path, choose(specs, "all"))
    scores = {}
    for engine in ("packed", "generic"):
        evaluator = Evaluator(trained.processor, folder, specs, engine=engine)  # type: ignore[arg-type]
        features = evaluator.features(trained.model)
        scores[engine] = evaluator.evaluate(trained.model, features)
    # It has learned to read digits and to say what is there.
    assert scores["packed"]["my_read"].score > 0.9
    assert scores["packed"]["my_choice"].score > 0.8
    for one, other in zip(scores["packed"].tasks, scores["generic"].tasks, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
    # The questions of a picture stand in one row, as those of a sample set do.
    asked = asked_in(folder, specs, None, trained.processor)
    assert len(asked) < evaluator.questions
    assert sum(len(asked[i].turns) for i in range(len(asked))) == evaluator.questions


def test_one_given_answer_and_texts_alone(
    files: tuple[Path, Path], trained: Any, tmp_path: Path
) -> None:
    place = files[0].parent
    single = CHOOSE.replace("my_choice\n", "my_one\n").replace("multiple_choice", "loglikelihood")
    single = single.replace("doc_to_choice: options\n", "").replace("acc_norm", "perplexity")
    single = single.replace("doc_to_target: label", "doc_to_target: '{{options[label]}}'")
    (place / "my_one.yaml").write_text(single)
    text = READ.replace("my_read\n", "my_text\n").replace("doc_to_visual: image\n", "")
    (place / "my_text.yaml").write_text(text)
    one, alone = (
        tried(s) for s in resolve_tasks([str(place / "my_one.yaml"), str(place / "my_text.yaml")])
    )
    specs = [one, alone]
    folder = materialise(None, specs, tmp_path, choose(specs, "search"))
    scores = Evaluator(trained.processor, folder, specs).evaluate(trained.model)
    # What is there is said greedily; without its picture a digit is guessed.
    assert scores["my_one"].score > 0.8
    assert scores["my_text"].score < 0.5


def test_own_tasks_beside_those_of_the_digits(
    files: tuple[Path, Path], trained: Any, tmp_path: Path
) -> None:
    made, own = resolve_tasks(["digits_colour", str(files[0])])
    own = tried(own)
    samples = load_split("search", 8)
    folder = materialise(samples, [made, own], tmp_path, choose([own], "search", 6))
    asked = asked_in(folder, [made, own], samples, trained.processor)
    from autoprune.data.encoding import encode_for

    encoded = encode_for(trained.config, asked, trained.processor, keep=0)
    evaluator = Evaluator(trained.processor, folder, [made, own], encoded=encoded)
    scores = evaluator.evaluate(trained.model, evaluator.features(trained.model))
    assert set(scores.by_task) == {"digits_colour", "my_read"}
    alone = Evaluator(trained.processor, folder, [own]).evaluate(trained.model)
    assert alone.by_task["my_read"] == scores.by_task["my_read"]
    assert min(scores.by_task.values()) > 0.8


def test_a_given_answer_costs_what_its_tokens_cost(trained: Any) -> None:
    sample = load_split("search", 1)[0]
    turn = sample.turns[0]
    others = [t.answer for t in sample.turns if t.answer != turn.answer]
    asked = [Given(turn.question, text, lambda: [sample.image]) for text in (turn.answer, *others)]
    together = losses(trained.processor, trained.model, asked, batch_size=4)
    alone = [losses(trained.processor, trained.model, [one])[0] for one in asked]
    np.testing.assert_allclose([loss for loss, _ in together], [loss for loss, _ in alone], 1e-3)
    # By hand: the prompt's own next-token distribution.
    from autoprune.data.chat import call_options, prompt_of, tokenizer_of

    text = prompt_of(trained.processor, turn.question, 1)
    inputs = trained.processor(
        text=[text],
        images=[[sample.image]],
        return_tensors="pt",
        **call_options(trained.processor, text),
    )
    with torch.no_grad():
        logits = trained.model(**inputs).logits[0, -1].log_softmax(-1)
    tokens = tokenizer_of(trained.processor)(turn.answer, add_special_tokens=False)["input_ids"]
    assert together[0][0] == pytest.approx(-float(logits[tokens[0]]), abs=1e-4)
    assert together[0][1] == (int(logits.argmax()) == tokens[0])
    with pytest.raises(AutoPruneError, match="empty answer"):
        losses(trained.processor, trained.model, [Given("Why?", " ", list)])


# --- names --------------------------------------------------------------------------------------


def test_the_tables_name_tasks_that_are_there() -> None:
    known = entries()
    for spec in BENCHMARKS:
        assert known[spec.name].path is not None
        assert resolve_tasks([spec.name])[0].metrics == spec.metrics
        assert keys_of(spec) == []
    for tasks in CAPABILITIES.values():
        assert {name for name in tasks if not name.startswith("digits_")} <= set(known)


def test_names_that_stand_for_several(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert [s.name for s in resolve_tasks(["scienceqa_full"])] == ["scienceqa", "scienceqa_img"]
    group = files[0].parent / "both.yaml"
    group.write_text("group: both\ntask: [my_read, my_choice, pope]\n")
    assert [s.name for s in resolve_tasks([str(group)])] == ["my_read", "my_choice", "pope"]
    with pytest.raises(AutoPruneError, match="stands for 3 tasks"):
        resolve_tasks([f"{group}:acc"])
    # A tag is a word that tasks carry.
    assert {s.name for s in resolve_tasks(["public_eval_qwen3_5_family"])} >= {"ai2d", "mmmu_val"}


def test_the_metric_that_counts(files: tuple[Path, Path]) -> None:
    (first,) = resolve_tasks([str(files[1])])
    assert (first.metric, first.guessed) == ("acc", True)
    (named,) = resolve_tasks([f"{files[1]}:acc_norm"])
    assert (named.metric, named.guessed) == ("acc_norm", False)
    (pope,) = resolve_tasks(["pope:pope_f1_score"])
    assert (pope.metric, pope.chance) == ("pope_f1_score", 0.0)
    assert resolve_tasks(["digits_read:exact_match"])[0].metric == "exact_match"


def test_capabilities_come_from_table_file_and_user(files: tuple[Path, Path]) -> None:
    specs = resolve_tasks(
        [*map(str, files), "pope", "textvqa_val_lite"], capabilities=["pope=safety"]
    )
    found = {spec.name: spec.capabilities for spec in specs}
    assert found == {
        "my_read": ("reading",),
        "my_choice": ("hallucination",),  # a tag that names a capability
        "pope": ("hallucination", "safety"),
        "textvqa_val_lite": ("reading",),
    }


@pytest.mark.parametrize(
    ("names", "more", "line"),
    [
        (["poop"], {}, r"unknown task 'poop' \(did you mean 'pope'\?\)"),
        (["zzzzzzzzzz"], {}, "'lmms-eval tasks list' lists"),
        (["pope:f1"], {}, r"reports no 'f1'"),
        (["digits_read:f1"], {}, r"reports no 'f1'"),
        (["pope", "pope:pope_f1_score"], {}, "named twice"),
        (["pope:"], {}, "is not NAME:METRIC"),
        (["vstat"], {}, "is a Python class"),
        (["./nothing.yaml"], {}, "cannot be read"),
        (["pope"], {"data": ["pope"]}, "is not NAME=VALUE"),
        (["pope"], {"data": ["gqa=."]}, r"gqa=.: no such task \(known: pope\)"),
        (["pope"], {"data": ["pope=/nowhere"]}, "is not there"),
        (["digits_read"], {"data": ["digits_read=."]}, "made from other data"),
        (["pope"], {"capabilities": ["gqa=x"]}, "no such task"),
    ],
)
def test_names_that_are_refused(names: list[str], more: dict[str, list[str]], line: str) -> None:
    with pytest.raises(AutoPruneError, match=line) as caught:
        resolve_tasks(names, **more)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("task: [a\n b: c", "is not YAML: line 2"),
        ("- one", "holds no fields"),
        (READ.replace("task: my_read", "task: a/b"), "give it one name"),
        (READ.replace("task: my_read", "task: digits_read"), "as an embedded one"),
        (READ.replace("doc_to_text: question", ""), "has no doc_to_text"),
        (READ.replace("test_split: test", ""), "has no test_split"),
        (READ.replace("metric_list:", "other:"), "lists no metric"),
        ("include: own.yaml\n" + READ, "includes itself"),
        (READ.replace("chance: 0.1", "chance: much"), "chance 'much' is not a share"),
        (READ.replace("chance: 0.1", "chance: 1.5"), r"chance 1.5 is not .*\[0, 1\)"),
        (READ.replace("chance: 0.1", "chnce: 0.1"), "'chnce' .did you mean 'chance'"),
        (READ.replace("chance: 0.1", "maximum: 0"), "maximum 0 is not"),
        (READ.replace("chance: 0.1", "max_new_tokens: 2.5"), "max_new_tokens 2.5 is not"),
        (READ.replace("capability: reading", "capability: [1]"), "a list of words"),
        (READ.replace("{chance: 0.1, capability: reading}", "reading"), "is no mapping"),
    ],
)
def test_files_that_are_no_tasks(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(AutoPruneError, match=line):
        resolve_tasks([str(path)])


# --- documents ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (READ.replace("my_read.parquet", "gone.parquet"), "where its files are not"),
        (READ.replace("doc_to_text: question", 'doc_to_text: "{{ask}}"'), "'ask' is undefined"),
        (READ.replace("generate_until", "generate_until_multi_round"), "talks in rounds"),
        (
            READ.replace("doc_to_visual: image", "doc_to_visual: !function u.f"),
            "cannot be imported",
        ),
        (CHOOSE.replace("doc_to_choice: options", "doc_to_choice: nothing"), "cannot"),
        (READ.replace("doc_to_visual: image", "nonsense: 1"), "nonsense"),
        (READ.replace("doc_to_visual: image", "doc_to_visual: imge"), "'imge'.*'image'"),
        (READ.replace("doc_to_text: question", "doc_to_text: quesion"), "'quesion'.*'question'"),
        (READ.replace("doc_to_target: answer", "doc_to_target: label"), "'label' names no column"),
        (READ.replace("test_split: test", "test_split: val"), "split 'val', which .* do not have"),
        (READ.replace("exact_match", "exakt_match"), "'exakt_match', which .*'exact_match'"),
    ],
)
def test_documents_that_do_not_suit_the_task(
    text: str, line: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    path = files[0].parent / f"{tmp_path.name}.yaml"
    path.write_text(text)
    (spec,) = resolve_tasks([str(path)])
    with pytest.raises(AutoPruneError, match=line) as caught:
        tried(spec)
    assert "\n" not in str(caught.value)


def test_data_that_is_not_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from huggingface_hub.errors import LocalTokenNotFoundError

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (spec,) = resolve_tasks(["textvqa_val_lite"])
    with pytest.raises(AutoPruneError, match=r"HF_HUB_OFFLINE keeps it away.*--task-data text"):
        pool_of(spec)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("autoprune.hub.reachable", lambda: False)
    with pytest.raises(AutoPruneError, match="does not answer: connect this machine"):
        pool_of(spec)

    def failing(error: Exception) -> Callable[..., Any]:
        def load(*args: Any, **kwargs: Any) -> Any:
            raise error

        return load

    for error, line in (
        (LocalTokenNotFoundError("Token is required"), "wants a login: 'hf auth login'"),
        (ConnectionError("no route"), "does not answer: connect this machine"),
        (datasets.exceptions.DatasetNotFoundError("not there"), "not on the Hugging Face hub"),
    ):
        monkeypatch.setattr(datasets, "load_dataset", failing(error))
        with pytest.raises(AutoPruneError, match=line):
            pool_of(spec)


def test_lmms_evals_own_loading_is_what_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a hub that answers: what it gives is split and asked like a local copy."""
    import datasets

    place = write("pope", tmp_path, "disk")
    asked = []

    def hub(path: str, **kwargs: Any) -> Any:
        asked.append((path, kwargs["token"]))
        return datasets.DatasetDict({"test": datasets.load_from_disk(str(place))})

    monkeypatch.setattr(datasets, "load_dataset", hub)
    (spec,) = resolve_tasks(["pope"], capabilities=["pope=loaded"])
    spec = tried(spec)
    assert asked == [("lmms-lab-encoder/POPE", True)]
    assert len(choose([spec], "all")[0].rows) == len(datasets.load_from_disk(str(place)))
    assert asked == [("lmms-lab-encoder/POPE", True)]  # once a process


def test_questions_with_and_without_a_picture(trained: Any) -> None:
    from autoprune.evaluation.generation import GenericEngine, Question

    sample = load_split("search", 1)[0]
    turn = sample.turns[0]
    asked = [
        Question("a", turn.question, lambda: [sample.image], 4),
        Question("b", turn.question, list, 4),
    ]
    both = GenericEngine(trained.processor).answer(trained.model, asked)
    alone = [GenericEngine(trained.processor).answer(trained.model, [one])[0] for one in asked]
    assert both == alone
    assert both[0] == turn.answer
    given = [Given(one.text, "yes", one.images) for one in asked]
    pairs = losses(trained.processor, trained.model, given)
    apart = [losses(trained.processor, trained.model, [one])[0] for one in given]
    np.testing.assert_allclose([p[0] for p in pairs], [p[0] for p in apart], rtol=1e-4)


def test_a_local_copy_of_other_splits(tmp_path: Path) -> None:
    import datasets

    place = write("pope", tmp_path, "disk")
    whole = datasets.load_from_disk(str(place))
    two = datasets.DatasetDict({"a": whole, "b": whole})
    two.save_to_disk(str(tmp_path / "two"))
    datasets.DatasetDict({"other": whole, "test": whole.select(range(30))}).save_to_disk(
        str(tmp_path / "three")
    )
    (spec,) = resolve_tasks(["pope"], data=[f"pope={tmp_path / 'three'}"])
    assert len(pool_of(spec).data) == 30
    (spec,) = resolve_tasks(["pope"], data=[f"pope={tmp_path / 'two'}"])
    with pytest.raises(AutoPruneError, match="has splits a, b, and the task asks split 'test'"):
        pool_of(spec)
    (tmp_path / "empty").mkdir()
    (spec,) = resolve_tasks(["pope"], data=[f"pope={tmp_path / 'empty'}"])
    with pytest.raises(AutoPruneError, match="holds no parquet file"):
        pool_of(spec)


def test_a_copy_without_what_the_task_reads(tmp_path: Path) -> None:
    import datasets

    place = write("pope", tmp_path, "disk")
    less = datasets.load_from_disk(str(place)).remove_columns("answer")
    less.to_parquet(tmp_path / "less.parquet")
    (spec,) = resolve_tasks(["pope"], data=[f"pope={tmp_path / 'less.parquet'}"])
    with pytest.raises(AutoPruneError, match=r"'answer' names no column.*question"):
        tried(spec)
    few = datasets.load_from_disk(str(place)).select(range(9))
    few.to_parquet(tmp_path / "few.parquet")
    (spec,) = resolve_tasks(["pope"], data=[f"pope={tmp_path / 'few.parquet'}"])
    with pytest.raises(AutoPruneError, match="has 3 images or texts"):
        choose([spec], "search")
    assert len(choose([spec], "all")[0].rows) == 9


# --- keys ---------------------------------------------------------------------------------------

JUDGED = (
    "mmvet",
    "llava_in_the_wild",
    "mmbench_en_dev",
    "mathverse_testmini",
    "mmmu_val_reasoning",
)
FREE = ("mmbench_en_dev_static", "docvqa_val", "ocrbench", "chartqa", "seedbench", "realworldqa")


def test_tasks_that_ask_a_judge_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "AZURE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in JUDGED:
        (spec,) = resolve_tasks([name])
        with pytest.raises(AutoPruneError, match=f"'{name}' is judged .* set OPENAI_API_KEY"):
            check_key(spec)
    for name in FREE:
        check_key(resolve_tasks([name])[0])
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    for name in JUDGED:
        check_key(resolve_tasks([name])[0])


def test_a_users_own_judge_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judge.py").write_text(
        "import os\nKEY = os.getenv('MY_API_KEY', 'YOUR_API_KEY')\n"
        "def ask(text):\n    return KEY\n"
        "def process(doc, results):\n    return {'exact_match': ask(results[0])}\n"
        "def plain(doc, results):\n    return {'exact_match': 1.0}\n"
    )
    path = tmp_path / "own.yaml"
    path.write_text(READ + "process_results: !function judge.process\n")
    (spec,) = resolve_tasks([str(path)])
    assert keys_of(spec) == ["MY_API_KEY"]
    path.write_text(READ + "process_results: !function judge.plain\n")
    assert keys_of(resolve_tasks([str(path)])[0]) == []
