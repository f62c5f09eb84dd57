"""Known benchmarks on made documents, by lmms-eval's own code: scores are those found by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.benchmarks import MADE, write
from support.yaml_tasks import write_tasks

from autoprune.evaluation.bridge import Evaluator
from autoprune.evaluation.external import tried
from autoprune.evaluation.generation import Question
from autoprune.evaluation.materials import materialise
from autoprune.evaluation.pools import SHARES, choose, deal, pool_of
from autoprune.evaluation.reading import read_score
from autoprune.evaluation.retention import bootstrap, retention
from autoprune.evaluation.scores import TaskScores
from autoprune.evaluation.tasks import TaskSpec, resolve_tasks

FORMS = {"gqa": "disk", "mme": "folder", "seedbench": "disk"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(scope="module")
def specs(place: Path) -> dict[str, TaskSpec]:
    found = {}
    for name in MADE:
        path = write(name, place, FORMS.get(name, "parquet"))
        (spec,) = resolve_tasks([name], data=[f"{name}={path}"])
        found[name] = tried(spec)
    return found


class Answers:
    """Answers each document as it is told to."""

    def __init__(self, name: str, right: list[bool]) -> None:
        self.made, self.right = MADE[name](), right
        self.asked: list[Question] = []

    def answer(self, model: Any, questions: list[Question]) -> list[str]:
        self.asked = list(questions)
        said = []
        for question in questions:
            row = int(question.key.split("/")[1])
            doc = self.made.docs[row]
            said.append((self.made.right if self.right[row] else self.made.wrong)(doc))
        return said


def score(evaluator: Evaluator, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> TaskScores:
    monkeypatch.setattr(evaluator, "_engine", lambda features: answers)
    return evaluator.evaluate(torch.nn.Identity())


@pytest.mark.parametrize("name", MADE)
def test_scores_are_those_found_by_hand(
    name: str,
    specs: dict[str, TaskSpec],
    processor: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = MADE[name]()
    spec = specs[name]
    for split in ("all", "search"):
        chosen = choose([spec], split)
        folder = materialise(None, [spec], tmp_path, chosen)
        evaluator = Evaluator(processor, folder, [spec])
        rows = chosen[0].rows.tolist()
        assert evaluator.questions == len(rows)
        for share in (3, 1):
            right = [row % 4 < share for row in range(len(made.docs))]
            answers = Answers(name, right)
            found = score(evaluator, answers, monkeypatch)[name]
            expected = made.score([made.docs[r] for r in rows], [right[r] for r in rows])
            assert found.score == pytest.approx(expected, abs=1e-9)
            assert (found.values is not None) == made.mean
            if found.values is not None:
                np.testing.assert_allclose(found.values, [float(right[r]) for r in rows])
            assert found.parts is not None
            assert found.parts.mean() == pytest.approx(expected, abs=1e-9)
        (image,) = answers.asked[0].images()
        assert image.size == (32, 32)
        assert all(q.max_new_tokens >= 16 for q in answers.asked)
    assert not list(Path.cwd().glob("submissions"))


def test_splits_share_no_image_and_keep_their_shares(specs: dict[str, TaskSpec]) -> None:
    for name, spec in specs.items():
        pool = pool_of(spec)
        images = set(pool.images.tolist())
        seen: set[str] = set()
        for split, share in SHARES.items():
            (chosen,) = choose([spec], split, None)
            own = set(pool.images[chosen.rows].tolist())
            assert not own & seen
            assert abs(len(own) - share * len(images)) <= 1
            seen |= own
        assert seen == images, name
        # Documents that show one picture are together; POPE asks three questions of each.
        assert len(images) == len({repr(doc["image"]) for doc in MADE[name]().docs})


def test_kinds_are_dealt_evenly(specs: dict[str, TaskSpec]) -> None:
    pool = pool_of(specs["mme"])
    dealt = deal({"mme": pool})
    for kind in set(pool.labels.tolist()):
        images = {i for i, k in zip(pool.images, pool.labels, strict=True) if k == kind}
        for split, share in SHARES.items():
            assert abs(sum(dealt[i] == split for i in images) - share * len(images)) <= 1


def test_splits_are_the_same_again_and_for_each_task_alone(specs: dict[str, TaskSpec]) -> None:
    pope = pool_of(specs["pope"])
    again = deal({"pope": pope})
    assert again == deal({"pope": pope})
    assert again != deal({"pope": pope}, seed=1)
    # The pictures of all made benchmarks are drawn alike, so that they share them.
    both = deal({"pope": pope, "textvqa_val": pool_of(specs["textvqa_val"])})
    assert set(both) == set(again)
    assert both == again


def test_a_proxy_subset_takes_each_kind(specs: dict[str, TaskSpec]) -> None:
    (few,) = choose([specs["mme"]], "search", 6)
    assert len(set(few.pool.images[few.rows].tolist())) == 6
    assert len(set(few.pool.labels[few.rows].tolist())) == 3


def test_a_share_of_the_images_keeps_every_task(
    specs: dict[str, TaskSpec], processor: Any, tmp_path: Path
) -> None:
    several = [specs["pope"], specs["mme"]]
    folder = materialise(None, several, tmp_path, choose(several, "all"))
    whole = Evaluator(processor, folder, several)
    part = Evaluator(processor, folder, several, fraction=0.5)
    assert part.images == pytest.approx(whole.images / 2, abs=2)
    for name, docs in part.docs.items():
        assert docs
        assert set(docs) < set(whole.docs[name])


def test_retention_and_its_interval_take_scores_that_are_no_means(
    specs: dict[str, TaskSpec],
    processor: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (f1,) = resolve_tasks(["pope:pope_f1_score"], data=[f"pope={specs['pope'].data}"])
    f1 = tried(f1)
    assert f1.metrics == ("pope_f1_score",)
    found = {}
    for name, spec in {"pope": f1, "mme": specs["mme"]}.items():
        chosen = choose([spec], "all")
        evaluator = Evaluator(processor, materialise(None, [spec], tmp_path, chosen), [spec])
        count = len(MADE[name]().docs)
        dense = score(evaluator, Answers(name, [r % 9 > 0 for r in range(count)]), monkeypatch)
        less = score(evaluator, Answers(name, [r % 3 > 0 for r in range(count)]), monkeypatch)
        assert less[name].values is None
        kept, interval = retention(less, dense), bootstrap(less, dense)
        assert interval.mean == pytest.approx(kept.value, abs=1e-9)
        assert interval.low < kept.value < interval.high < 1.2
        assert interval.high - interval.low > 0.05
        again = TaskScores.from_dict(less.to_dict())
        assert bootstrap(again, dense) == interval
        found[name] = kept.value
    assert all(0 < value < 1 for value in found.values())


def test_f1_is_that_of_the_answers(
    specs: dict[str, TaskSpec], processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spec,) = resolve_tasks(["pope:pope_f1_score"], data=[f"pope={specs['pope'].data}"])
    spec = tried(spec)
    evaluator = Evaluator(
        processor, materialise(None, [spec], tmp_path, choose([spec], "all")), [spec]
    )

    class Yes(Answers):
        def answer(self, model: Any, questions: list[Question]) -> list[str]:
            return ["yes"] * len(questions)

    # Half of the answers are yes: precision 1/2, recall 1.
    assert score(evaluator, Yes("pope", []), monkeypatch)["pope"].score == pytest.approx(2 / 3)


class Averaging:
    """A task whose score is the root of the mean: no mean over documents."""

    _filters = ()

    def aggregation(self) -> dict[str, Any]:
        return {"acc": lambda items: float(np.mean([item["hit"] for item in items]) ** 0.5)}


def test_influence_is_the_slope_of_the_score() -> None:
    rng = np.random.default_rng(0)
    hits = (rng.random(400) < 0.7).astype(float)
    docs = [f"d{i}" for i in range(400)]
    logged = [{"doc_id": i, "doc": {}, "acc": {"hit": hit}} for i, hit in enumerate(hits)]
    score = float(hits.mean() ** 0.5)
    found = read_score(
        TaskSpec("root", ("acc",)),
        {"results": {"root": {"acc,none": score}}, "samples": {"root": logged}},
        docs,
        docs,
        Averaging(),
    )
    assert found.values is None
    assert found.influence is not None
    assert found.influence.mean() == pytest.approx(0.0, abs=1e-12)
    # The delta method: sd(hit) / (2 sqrt(mean)), which is what resampling images must give.
    slope = hits.std() / (2 * score)
    assert found.influence.std() == pytest.approx(slope, rel=0.35)
    few = read_score(
        TaskSpec("root", ("acc",)),
        {
            "results": {"root": {"acc,none": float(hits[:60].mean() ** 0.5)}},
            "samples": {"root": logged[:60]},
        },
        docs[:60],
        docs[:60],
        Averaging(),
    )
    assert few.influence is not None  # each image by itself: the slope, document by document
    expected = (hits[:60] - hits[:60].mean()) / (2 * few.score)
    np.testing.assert_allclose(few.influence, expected, atol=0.01)


def test_tasks_that_share_images_share_their_splits(tmp_path: Path) -> None:
    specs = resolve_tasks([*map(str, write_tasks(tmp_path))])
    shown = {
        split: [set(one.pool.images[one.rows]) for one in choose(specs, split)]
        for split in ("search", "confirm", "report")
    }
    assert set.intersection(*shown["search"])
    whole = {split: set.union(*found) for split, found in shown.items()}
    assert sum(map(len, whole.values())) == len(set.union(*whole.values())) > 20
