"""Links and views of the MLflow UI, as far as they can be checked without a browser."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
from tracking_fakes import fake_info, fake_summary, fake_trial, fake_trials

from autoprune.tracking import naming
from autoprune.tracking.links import search_links
from autoprune.tracking.naming import trial_metrics
from autoprune.tracking.records.summary import LoggedSearch
from autoprune.tracking.views import VIEW_LIMIT, front_view, share_key, trials_view


def place(uri: str = "sqlite:////x/mlflow.db", **changes: Any) -> LoggedSearch:
    summary = fake_summary()
    runs = {point.trial: f"run{point.trial}" for point in summary.points}
    fields: dict[str, Any] = {"views": {"trials": "abc", "front": "def"}, "runs": runs} | changes
    return LoggedSearch(uri=uri, experiment_id="1", parent_run_id="p1", **fields)


def state_of(view: str) -> dict[str, Any]:
    packed = json.loads(view)["state"].removeprefix("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_links_open_on_the_saved_view() -> None:
    links = search_links(place(), points=fake_summary().front)
    assert set(links) == {"trials", "table", "compare", "diff", "search", "plot", "models"}
    query = parse_qs(links["trials"].split("?")[1])
    # A filter beside the share key would make the UI ignore the view.
    assert set(query) == {"viewStateShareKey", "compareRunsMode", "workflowType"}
    assert links["trials"].startswith("http://127.0.0.1:5000/#/experiments/1/runs?")
    assert parse_qs(links["compare"].split("?")[1])["viewStateShareKey"] == ["def"]
    runs = json.loads(unquote(parse_qs(links["diff"].split("?")[1])["runs"][0]))
    assert runs == [f"run{point.trial}" for point in fake_summary().front]


def test_without_a_view_the_link_filters_and_orders() -> None:
    query = parse_qs(search_links(place(views={}))["trials"].split("?")[1])
    assert query["searchFilter"] == ["tags.`mlflow.parentRunId` = 'p1'"]
    assert query["orderByKey"] == ["metrics.`retention`"]


def test_a_server_is_its_own_ui() -> None:
    links = search_links(place("https://host:8443/"), local="http://127.0.0.1:5001")
    assert links["search"].startswith("https://host:8443/#/experiments/1/runs/p1")


def test_the_view_holds_the_front_first() -> None:
    metrics = sorted(trial_metrics(fake_trial(1)))
    view = trials_view("p1", fake_info(), metrics, created=1.5)
    assert json.loads(view)["name"] == "demo: trials"
    assert json.loads(view)["createdAt"] == 1500
    state = state_of(view)
    assert state["searchFilter"] == "tags.`mlflow.parentRunId` = 'p1'"
    assert state["runsHiddenMode"] == "SHOW_ALL"
    scatter = state["compareRunCharts"][0]
    assert (scatter["type"], scatter["xaxis"]["key"], scatter["yaxis"]["key"]) == (
        "SCATTER",
        "size/params",
        "retention",
    )
    assert scatter["metricSectionId"] == state["compareRunSections"][0]["uuid"]
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} <= sections


def test_a_view_never_outgrows_its_tag() -> None:
    view = trials_view("p1", fake_info(), [f"score/task_{i:05d}" for i in range(4000)], created=0)
    assert len(view) <= VIEW_LIMIT


def test_share_keys_tell_searches_apart_and_stay() -> None:
    assert share_key(fake_info()) == share_key(fake_info())
    assert share_key(fake_info()) != share_key(fake_info(key="other"))
    assert share_key(fake_info()) != share_key(fake_info(), "front")


def test_the_view_of_the_front_has_axes_for_what_differs() -> None:
    records = fake_trials()
    summary = fake_summary(records)
    state = state_of(front_view("p1", fake_info(), summary, records, created=1.0))
    assert state["searchFilter"] == "tags.`mlflow.parentRunId` = 'p1' and tags.front = 'yes'"
    chart = state["compareRunCharts"][0]
    # `protect` is the same in all, and `axis` has an axis already.
    assert chart["selectedParams"] == ["axis", "recovery", "data_fraction", "knob/temperature"]
    assert chart["selectedMetrics"] == ["retention_confirmed", "size/params"]
    assert state["columnOrder"][0] == "metrics.`retention_confirmed`"
    assert set(state["columnWidths"]) == set(state["selectedColumns"])


@pytest.mark.parametrize(
    ("settings", "metrics"),
    [
        ({}, ["retention_confirmed", "size/params"]),
        ({"objective": "bytes"}, ["retention_confirmed", "size/bytes"]),
        (
            {"objective": "memory", "timed": True},
            ["retention_confirmed", "latency/seconds", "size/memory"],
        ),
    ],
)
def test_sizes_are_in_the_unit_of_the_objective(settings: dict[str, Any], metrics: Any) -> None:
    records = fake_trials()
    info = fake_info(settings=settings)
    state = state_of(front_view("p1", info, fake_summary(records), records, created=1.0))
    assert state["compareRunCharts"][0]["selectedMetrics"] == metrics
    state = state_of(trials_view("p1", info, [], created=1.0))
    assert state["compareRunCharts"][0]["xaxis"]["key"] == metrics[-1]


def test_small_figures_keep_their_digits() -> None:
    shown = naming.shown({"latency/seconds": 0.000123456789, "retention": 0.123456789, "no": None})
    assert shown == {"latency/seconds": 0.000123457, "retention": 0.123457}
