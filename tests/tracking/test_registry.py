"""Checkpoints in the model registry: what a version holds and hangs on, and that none is twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.cards import write_card
from tracking_fakes import fake_summary, fake_trials

from autoprune.errors import AutoPruneError
from autoprune.tracking import registry
from autoprune.tracking.location import default_uri
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import TrialRecord
from autoprune.tracking.registry import register
from autoprune.tracking.store import MlflowStore

RECORDS = fake_trials(9)
SUMMARY = fake_summary(RECORDS)
POINT = SUMMARY.front[-1]
SPARE = SUMMARY.front[0]


def checkpoint(folder: Path, trial: int = POINT.trial, *, weights: bytes = b"weights") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"vision_config": {}}))
    (folder / "model.safetensors").write_bytes(weights)
    record: TrialRecord = RECORDS[trial]
    # One seed's weights do not score what all of them do in the mean.
    own = {task: score - 0.05 for task, score in record.scores.items()}
    record = record.model_copy(update={"scores": own})
    point = next((p for p in SUMMARY.points if p.trial == trial), None)
    return write_card(folder, record, point)


@pytest.fixture
def searched(open_store: Callable[..., MlflowStore]) -> MlflowStore:
    """A store with a finished search in it."""
    store = open_store()
    for record in (RECORDS[POINT.trial], RECORDS[SPARE.trial]):
        store.log_trial(record)
    store.log_points(
        SearchSummary.model_validate({**SUMMARY.model_dump(), "points": (POINT, SPARE)})
    )
    return store


def about(value: float | None) -> Any:
    return pytest.approx(value, abs=1e-6)


def models_of(home: Path) -> list[Path]:
    return sorted((home / "artifacts" / "models").glob("*"))


def test_a_version_hangs_on_its_trial_and_its_search(
    searched: MlflowStore, home: Path, tmp_path: Path
) -> None:
    made = register(default_uri(home), checkpoint(tmp_path / "c"), "m", tags={"who": "me"})
    assert (made.name, made.version, made.uri) == ("m", 1, "models:/m@champion")
    assert made.linked
    assert made.run_id == searched.runs[POINT.trial]
    client = searched.client
    model = client.get_logged_model(made.model_id)
    assert str(model.status) == "READY"
    assert model.source_run_id == made.run_id
    assert model.params["budget"] == "60%"
    assert model.params["bits"] == RECORDS[POINT.trial].precision
    assert len(model.params["plan"]) == 16
    found = {metric.key: metric.value for metric in model.metrics}
    assert found["retention_confirmed"] == about(POINT.retention.mean)
    assert found["retention_confirmed_low"] == about(POINT.retention.low)
    task, score = next(iter(POINT.scores.items()))
    assert found[f"confirmed/{task}"] == about(score)
    for run_id in (made.run_id, searched.parent):
        outputs = client.get_run(run_id).outputs.model_outputs
        assert [output.model_id for output in outputs] == [made.model_id]
    # The trial's own figures stay what the search measured.
    metrics = client.get_run(made.run_id).data.metrics
    assert metrics["retention"] == about(RECORDS[POINT.trial].retention)
    version = client.get_model_version_by_alias("m", "champion")
    assert version.tags["who"] == "me"
    assert version.tags["search"] == "demo"
    low, high = f"{POINT.retention.low:.3f}", f"{POINT.retention.high:.3f}"
    assert f"[{low}, {high}]" in version.description
    # Its table is over seeds as well, beside what these very weights scored.
    assert f"| {task} | {score:.3f} | 0.950 |" in version.description
    assert found[f"checkpoint/{task}"] == about(score - 0.05)
    assert "models:/m@champion" in client.get_registered_model("m").description


def test_the_same_content_is_one_version_and_one_copy(
    searched: MlflowStore, home: Path, tmp_path: Path
) -> None:
    uri, one = default_uri(home), checkpoint(tmp_path / "one")
    first = register(uri, one, "m")
    assert first.copied == sum(file.stat().st_size for file in one.iterdir())
    again = register(uri, shutil.copytree(one, tmp_path / "again"), "m", alias="old")
    assert (again.version, again.existed, again.copied) == (1, True, 0)
    elsewhere = register(uri, one, "another")
    assert (elsewhere.version, elsewhere.existed, elsewhere.copied) == (1, False, 0)
    assert elsewhere.model_id == first.model_id
    assert len(models_of(home)) == 1
    # What MLflow hands out and adds to is the same checkpoint still.
    files = models_of(home)[0] / "artifacts"
    (files / "registered_model_meta").write_text("model_name: m\n")
    assert register(uri, files, "m").existed

    other = register(uri, checkpoint(tmp_path / "two", weights=b"others"), "m")
    assert (other.version, other.existed, other.moved_from) == (2, False, 1)
    aliases = searched.client.get_registered_model("m").aliases
    assert {name: int(version) for name, version in aliases.items()} == {"champion": 2, "old": 1}


def test_a_checkpoint_of_elsewhere_gets_a_run_of_its_own(
    searched: MlflowStore, home: Path, tmp_path: Path
) -> None:
    stranger = checkpoint(tmp_path / "c")
    scores = json.loads((stranger / "scores.json").read_text())
    (stranger / "scores.json").write_text(json.dumps({**scores, "params": 17}))
    made = register(default_uri(home), stranger, "m")
    assert not made.linked
    run = searched.client.get_run(made.run_id)
    assert run.info.run_name == f"demo:{POINT.trial}"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["size/params"] == 17


def test_an_empty_store_is_made(tmp_path: Path, home: Path) -> None:
    plain = checkpoint(tmp_path / "c", next(r.trial for r in RECORDS if r.origin != "sampler"))
    made = register(default_uri(home), plain, "m")
    assert made.version == 1
    assert (models_of(home)[0] / "artifacts" / "model.safetensors").read_bytes() == b"weights"


def test_a_failed_copy_leaves_nothing(
    searched: MlflowStore, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(registry, "write_flavour", full)
    with pytest.raises(OSError, match="No space"):
        register(default_uri(home), checkpoint(tmp_path / "c"), "m")
    assert not models_of(home)
    assert not searched.client.search_registered_models()
    assert not searched.client.search_logged_models([searched.experiment_id])
    monkeypatch.undo()
    assert register(default_uri(home), tmp_path / "c", "m").version == 1


def test_a_home_that_was_moved_is_told(searched: MlflowStore, home: Path, tmp_path: Path) -> None:
    (home / "artifacts").rename(home / "moved")
    with pytest.raises(AutoPruneError, match=r"keeps its files in .*artifacts, which is not there"):
        register(default_uri(home), checkpoint(tmp_path / "c"), "m")
    assert not (home / "artifacts").exists()


def _no_directory(folder: Path) -> Path:
    return folder / "nowhere"


def _no_weights(folder: Path) -> Path:
    made = checkpoint(folder / "c")
    (made / "model.safetensors").unlink()
    return made


def _no_card(folder: Path) -> Path:
    made = checkpoint(folder / "c")
    (made / "scores.json").unlink()
    return made


def _old_card(folder: Path) -> Path:
    made = checkpoint(folder / "c")
    (made / "scores.json").write_text("{}")
    return made


BAD = [
    ({}, _no_directory, r"nowhere is no directory: .*autoprune export"),
    ({}, _no_weights, r"no checkpoint that AutoPrune exported \(it has no \*\.safetensors\)"),
    ({}, _no_card, r"it has no scores\.json"),
    ({}, _old_card, r"card of .* cannot be read \(KeyError: 'dense'\): export it again"),
    ({"name": "a/b"}, checkpoint, r"'a/b' is no name for a model, as '/'"),
    ({"name": "a@b"}, checkpoint, r"'a@b' is no name for a model"),
    ({"name": " "}, checkpoint, r"' ' is no name for a model: give one"),
    ({"alias": "latest"}, checkpoint, r"'latest' is one that MLflow gives itself"),
    ({"alias": "v7"}, checkpoint, r"'v7' is one that MLflow gives itself"),
    ({"alias": "the best"}, checkpoint, r"'the best' is no alias"),
    ({"tracking_uri": "http://127.0.0.1:9"}, checkpoint, r"does not answer .*start the server"),
    ({"tracking_uri": "ftp://x"}, checkpoint, r"no scheme that MLflow knows"),
]


@pytest.mark.parametrize(("given", "make", "said"), BAD)
def test_bad_input_is_one_line_before_any_work(
    given: dict[str, str],
    make: Callable[[Path], Path],
    said: str,
    tmp_path: Path,
) -> None:
    place = tmp_path / "place"
    directory = make(place if make is checkpoint else tmp_path)
    asked = {"tracking_uri": default_uri(tmp_path / "home"), "name": "m", **given}
    with pytest.raises(AutoPruneError, match=said) as caught:
        register(directory=directory, **asked)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "home").exists()
