"""A search's preparation on a user's data: conversations to recover on, held-out rows as a task."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.families import CASES, build_model
from support.user_data import digits, llava, pictures_of, write_json
from support.yaml_tasks import write_tasks

from autoprune.data.encoding import IGNORED, collate, encode_for
from autoprune.data.images import LazyTiles
from autoprune.data.sources.user import open_data, read_data
from autoprune.errors import AutoPruneError
from autoprune.evaluation.bridge import Evaluator
from autoprune.evaluation.held_out import asks_of_data, data_tasks, unseen
from autoprune.evaluation.tasks import resolve_tasks
from autoprune.pipeline.assets import Assets
from autoprune.pipeline.prepare import Preparation, exam_of, prepare
from autoprune.resources import Resources
from autoprune.search.problem import preparation
from autoprune.search.records.store import SearchStore, search_dir
from autoprune.search.settings import make_settings
from autoprune.zoo import load_split


def test_a_search_is_prepared_on_a_users_data(tmp_path: Path) -> None:
    path = digits(tmp_path)
    values = {"data": [str(path)], "images": str(tmp_path / "images"), "name": "x"}
    settings = make_settings({**values, "max_length": 40})
    wanted = preparation(settings)
    assert isinstance(wanted, Preparation)
    assert wanted.data is not None
    assert (wanted.train_images, wanted.calibration_images) == (84, 6)
    assert [task.name for task in wanted.tasks] == ["data_digits"]
    assert 0 < wanted.tasks[0].chance < 0.5
    told: list[str] = []
    assets = prepare(wanted, tmp_path / "cache", Resources(), told.append)
    assert len(assets.train) == 84 - assets.train.left_out
    assert np.diff(assets.train.offsets).max() <= 40
    assert any("longer than 40 tokens and left out" in text for text in told)
    splits = open_data(wanted.data)
    turns = [len(sample.turns) for sample in splits.open("train")]
    row = turns.index(2)
    span = slice(*assets.train.offsets[row : row + 2])
    labels = assets.train.labels[span]
    assert (np.diff((labels != IGNORED).astype(int)) == 1).sum() == 2
    exam = assets.exams["search"].dense
    assert exam.by_task["data_digits"] > 0.6
    assert exam.questions == splits.size("search") == 12
    again: list[str] = []
    prepare(wanted, tmp_path / "cache", Resources(), again.append)
    assert [text for text in again if not text.startswith("digits/train: of")] == [
        "loading the dense model"
    ]


def test_pictures_are_read_again_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a small limit nothing of them is kept; a worker reads them from where they lie."""
    digits(tmp_path, 60)
    monkeypatch.chdir(tmp_path)
    values = {"data": ["digits.json"], "images": "images", "cache_limit": "1KiB", "tasks": []}
    assets = prepare(preparation(make_settings(values)), tmp_path / "cache", Resources())
    assert isinstance(assets.train.pixel_values, LazyTiles)
    assert assets.teacher.features is None
    small, arrays = assets.split()
    (tmp_path / "worker").mkdir()
    monkeypatch.chdir(tmp_path / "worker")
    train = Assets.join(small, arrays).train
    shown = collate(train, [0, 1]).pixel_values
    assert shown is not None
    assert shown.shape[0] == 2
    assert sum(array.nbytes for array in arrays.values()) < 2**25


def test_own_data_may_be_scored_on_other_tasks(tmp_path: Path) -> None:
    path = digits(tmp_path)
    values = {"data": [str(path)], "images": str(tmp_path / "images"), "tasks": ["digits_read"]}
    wanted = preparation(make_settings(values))
    assert [task.name for task in wanted.tasks] == ["digits_read"]
    assert not asks_of_data(wanted.tasks)
    assert not asks_of_data(resolve_tasks())


def test_what_tasks_ask_about_is_not_trained_on(tmp_path: Path) -> None:
    """Ten of the rows show images of a task's documents, in files where these have bytes."""
    path = digits(tmp_path)
    data = json.loads(path.read_text())
    asked = [
        sample
        for sample in load_split("report", 40)
        if {turn.source for turn in sample.turns} & {"read", "colour"}
    ]
    for number, sample in enumerate(asked[:10]):
        assert sample.image is not None
        sample.image.save(tmp_path / "images" / f"{1000 + number}.png", "png")
        data.append({**data[number], "id": f"x{number}", "image": f"{1000 + number}.png"})
    write_json(data, path)
    task, _ = write_tasks(tmp_path / "tasks", 40)
    values = {"data": [str(path)], "images": str(tmp_path / "images"), "tasks": [str(task)]}
    wanted = preparation(make_settings(values))
    assert wanted.data is not None
    told: list[str] = []
    assets = prepare(wanted, tmp_path / "cache", Resources(), told.append)
    train = open_data(wanted.data).open("train")
    shown = int((train.rows >= 120).sum())
    assert shown >= 5
    assert len(np.unique(assets.train.samples)) == len(train) - shown
    assert any(f"{shown} of {len(train)} samples" in text for text in told)
    assert unseen(train, resolve_tasks(), told.append) is train
    with pytest.raises(AutoPruneError, match="show images that the tasks ask about: recover on"):
        train.without(train.sources[0].index.images.tolist())


@pytest.mark.parametrize("name", ["llava-llama", "qwen2_vl-qwen2_vl_text", "llama"])
def test_held_out_rows_are_asked_with_all_their_images(name: str, tmp_path: Path) -> None:
    """The model meets its own answers to the first question of each row, whatever it shows."""
    path = llava(tmp_path, 100)
    splits = open_data(read_data([str(path)], tmp_path / "images"))
    model, processor = build_model(CASES[name].config()), CASES[name].processor()
    specs = data_tasks(splits)
    folder, done, asked = exam_of(splits, "search", None, specs, tmp_path / "tasks", processor)
    assert done == specs
    encoded = encode_for(model.config, asked, processor, keep=0)
    evaluator = Evaluator(processor, folder, specs, encoded=encoded)
    features = evaluator.features(model)
    scores = evaluator.evaluate(model, features)
    assert scores.questions == len(asked) == 10
    shown = [len(sample.images) for sample in asked]
    assert sorted(set(shown)) == [0, 1, 2]
    spoken = asked[shown.index(2)]
    assert spoken.turns[0].question == "what is the digit ?"
    groups = dict(zip(scores.tasks[0].docs, scores.tasks[0].images, strict=True))
    assert len(set(groups.values())) == 10


def test_what_data_holds_is_part_of_a_search_and_where_it_lies_is_not(tmp_path: Path) -> None:
    path = llava(tmp_path / "one")
    values = {"images": str(tmp_path / "one" / "images")}
    first = make_settings({**values, "data": [str(path)]})
    (tmp_path / "two").mkdir()
    moved = path.rename(tmp_path / "two" / "mine.json")
    second = make_settings({**values, "data": [str(moved)]})
    assert first.identity() == second.identity()
    assert first.name == second.name
    data = json.loads(moved.read_text())
    pictures_of([{"image": "99.png"}], tmp_path / "one" / "images")
    data[0]["image"] = "99.png"
    write_json(data, moved)
    third = make_settings({**values, "data": [str(moved)]})
    assert third.data_identity != first.data_identity
    assert third.name != first.name
    store = SearchStore(search_dir(tmp_path / "home", first.name))
    store.open(first)
    assert store.settings().data_identity == first.data_identity
    assert store.settings({"data": (str(moved),)}).data == (str(moved),)
    store.check_same(second)
    with pytest.raises(AutoPruneError, match="exists with another --data"):
        store.check_same(third)
    assert make_settings({}).data_identity == ""
    assert "data_identity" not in make_settings({}).fixed()
