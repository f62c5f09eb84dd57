"""What stands in MLflow after a search, and that nothing is ever there twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tracking_fakes import fake_info, fake_summary, fake_trial, fake_trials, statuses

from autoprune.tracking import naming
from autoprune.tracking.report import write_files
from autoprune.tracking.store import MlflowStore

Open = Callable[..., MlflowStore]


def run_of(store: MlflowStore, trial: int) -> Any:
    return store.client.get_run(store.runs[trial])


@pytest.mark.parametrize(
    ("state", "status"),
    [("running", "RUNNING"), ("complete", "FINISHED"), ("stopped", "KILLED"), ("failed", "FAILED")],
)
def test_a_trial_is_a_child_run(open_store: Open, state: str, status: str) -> None:
    store = open_store()
    record = fake_trial(7, state)
    store.log_trial(record)
    run = run_of(store, 7)
    assert run.info.run_name == "trial-0007"
    assert run.info.status == status
    assert run.data.tags["mlflow.parentRunId"] == store.parent
    assert run.data.tags["reason"] == record.reason
    assert run.data.tags["version.autoprune"] == "0.1.0"
    assert run.data.params["knob/temperature"] == str(record.knobs["temperature"])
    assert run.data.params["seed"] == "0"
    assert run.data.metrics["size/params"] == record.params
    assert run.data.metrics["size/bytes"] == record.bytes
    assert run.data.params["precision"] == record.precision
    assert run.data.metrics["work/seconds_recover"] == 8.0
    if state != "failed":
        assert run.data.metrics["score/digits_read"] == pytest.approx(
            record.scores["digits_read"], abs=1e-6
        )
        assert run.data.metrics["rung/retention"] == pytest.approx(record.retention, abs=1e-6)


def test_only_full_fidelity_has_a_retention(open_store: Open) -> None:
    store = open_store()
    for number, state in enumerate(("running", "complete", "stopped")):
        store.log_trial(fake_trial(number, state))
    has = ["retention" in run_of(store, number).data.metrics for number in range(3)]
    assert has == [False, True, False]


def test_first_names_are_the_ones_that_the_ui_draws_first() -> None:
    record = fake_trial(7)
    assert sorted(naming.trial_params(record))[:3] == ["axis", "data_fraction", "fraction"]
    assert min(naming.trial_metrics(record)) == "retention"


def test_a_trial_grows_in_one_run(open_store: Open, home: Path) -> None:
    store = open_store()
    done = fake_trial(3)
    store.log_trial(fake_trial(3, "running"))
    store.log_trial(done)
    store.log_trial(done)
    assert [name for name, _ in statuses(home)] == ["demo", "trial-0003"]
    history = store.client.get_metric_history(store.runs[3], "rung/retention")
    assert [metric.step for metric in history] == [1, 3]


def test_rungs_that_passed_unseen_are_logged_afterwards(open_store: Open) -> None:
    store = open_store()
    store.log_trial(fake_trial(3).model_copy(update={"rung_values": (-0.5, 0.2, None, 0.4)}))
    client, run_id = store.client, store.runs[3]
    steps = [(m.step, m.value) for m in client.get_metric_history(run_id, "rung/retention")]
    assert steps[0] == (1, 0.2)
    assert [step for step, _ in steps] == [1, 3]
    assert (0, 0.5) in {
        (m.step, m.value) for m in client.get_metric_history(run_id, "rung/proxy_kl")
    }


def test_a_resumed_search_finds_its_runs_and_writes_nothing_twice(
    open_store: Open, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_store()
    records = fake_trials(6)
    for record in records:
        first.log_trial(record)
    first.close("stopped", "interrupted")
    before = statuses(home)

    again = open_store(writer="second")
    assert again.parent == first.parent
    assert again.client.get_run(again.parent).info.status == "RUNNING"
    monkeypatch.setattr(again.client, "log_batch", lambda *_, **__: pytest.fail("logged again"))
    for record in records:
        again.log_trial(record)
    assert [name for name, _ in statuses(home)] == [name for name, _ in before]
    assert not first.is_mine()
    assert again.is_mine()


def test_another_search_of_the_same_name_has_runs_of_its_own(open_store: Open) -> None:
    assert open_store().parent != open_store(fake_info(key="elsewhere")).parent


def test_runs_left_running_are_settled(open_store: Open) -> None:
    first = open_store()
    for number in range(3):
        first.log_trial(fake_trial(number, "running"))
    first.log_trial(fake_trial(3))

    again = open_store(writer="second")
    again.settle({1}, "the search was killed")
    found = {number: run_of(again, number).info.status for number in range(4)}
    assert found == {0: "KILLED", 1: "RUNNING", 2: "KILLED", 3: "FINISHED"}
    assert run_of(again, 0).data.tags["reason"] == "the search was killed"
    # A settled trial that the search takes up again goes on in its run.
    again.log_trial(fake_trial(0, "running"))
    assert run_of(again, 0).info.status == "RUNNING"
    assert run_of(again, 0).data.tags["reason"] == ""


def test_the_parent_holds_plots_table_config_and_versions(
    open_store: Open, home: Path, tmp_path: Path
) -> None:
    store = open_store()
    records = fake_trials(12)
    summary = fake_summary(records)
    for record in records:
        store.log_trial(record)
    store.log_points(summary)
    store.log_summary(summary, records)
    folder = tmp_path / "files"
    write_files(folder, summary, records)
    store.log_files(folder)
    store.close("complete")

    run = store.client.get_run(store.parent)
    assert run.info.status == "FINISHED"
    assert run.data.params["budget"] == "60%"
    assert run.data.params["setting/sampler"] == "tpe"
    assert run.data.params["measured/importance_peak_gib"] == "14.25"
    assert run.data.tags["version.torch"] == "2.15.0"
    assert run.data.metrics["front/hypervolume"] == pytest.approx(0.123)
    assert run.data.metrics["trials/complete"] == 9
    assert "autoprune export demo:" in run.data.tags["mlflow.note.content"]
    inside = home / "artifacts" / store.parent / "artifacts"
    for name in ("pareto.html", "pareto.png", "keep_map.png", "keep_map.json", "front.csv"):
        assert (inside / "front" / name).stat().st_size > 100
    table = json.loads((inside / "front" / "front.json").read_text())
    assert len(table["data"][0]) == len(table["columns"])
    assert (inside / "config" / "space.yaml").read_text().startswith("axis")

    on_front = {p.trial for p in summary.front}
    marked = {t for t in store.runs if run_of(store, t).data.tags.get("front") == "yes"}
    assert marked == on_front
    point = summary.front[0]
    metrics = run_of(store, point.trial).data.metrics
    assert metrics["retention_confirmed"] == pytest.approx(point.retention.mean, abs=1e-6)


def test_a_point_that_leaves_the_front_loses_its_mark(open_store: Open) -> None:
    store = open_store()
    records = fake_trials(12)
    for record in records:
        store.log_trial(record)
    summary = fake_summary(records)
    store.log_points(summary)
    gone, *rest = summary.front
    store.log_points(summary.model_copy(update={"points": tuple(rest)}))
    assert run_of(store, gone.trial).data.tags["front"] == "no"


def test_many_knobs_go_in_several_calls(open_store: Open) -> None:
    store = open_store()
    knobs = {f"ratio_{layer}": layer / 300 for layer in range(250)}
    store.log_trial(fake_trial(1).model_copy(update={"knobs": knobs}))
    assert run_of(store, 1).data.params["knob/ratio_249"] == str(249 / 300)


def test_a_deleted_experiment_comes_back(open_store: Open) -> None:
    first = open_store()
    first.client.delete_experiment(first.experiment_id)
    again = open_store()
    assert again.experiment_id == first.experiment_id
    again.log_trial(fake_trial(1))
