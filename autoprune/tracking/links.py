"""Addresses in the MLflow UI that open on one search's trials, and the views behind them.

The UI nests a trial under its search, collapsed, and its charts then show the search's own run
only. Two things bring the trials to the front: an order by a metric, which flattens the list,
and a saved view, which the UI keeps as a tag of the experiment (as its own 'Share' button does)
and which says which charts stand on the page. Without the view the charts hold ten runs.
"""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from autoprune.tracking.location import is_server, without_credentials
from autoprune.tracking.records import FrontPoint, LoggedSearch, SearchInfo

LOCAL_UI = "http://127.0.0.1:5000"
ORDER = "metrics.`retention`"
WORKFLOW = "workflowType=machine_learning"  # of the UI's two faces, the one with runs and charts
VIEW_LIMIT = 20_000  # characters that MLflow keeps in a tag of an experiment


def base_url(uri: str, local: str = LOCAL_UI) -> str:
    """Return the address of the UI: the tracking server itself, or the one started locally."""
    return (without_credentials(uri) if is_server(uri) else local).rstrip("/")


def search_links(
    place: LoggedSearch, *, local: str = LOCAL_UI, points: Sequence[FrontPoint] = ()
) -> dict[str, str]:
    """Return what to open, by name.

    `trials` opens on the charts of all trials (Pareto scatter and parallel coordinates first),
    `table` on the list of them, `compare` puts the confirmed points side by side, and `search`
    is the run that holds the Pareto plot, the keep map and the front as a table.
    """
    url = base_url(place.uri, local)
    experiment = f"{url}/#/experiments/{place.experiment_id}"
    listing = f"{experiment}/runs?{_listing(place.parent_run_id)}"
    share = place.views.get("trials")
    # A filter in the address makes the UI ignore the saved view, which has the filter inside.
    view = f"{experiment}/runs?viewStateShareKey={quote(share)}" if share else listing
    links = {
        "trials": f"{view}&compareRunsMode=CHART&{WORKFLOW}",
        "table": f"{view}&compareRunsMode=TABLE&{WORKFLOW}",
    }
    chosen = [place.runs[p.trial] for p in points if p.trial in place.runs]
    if len(chosen) > 1:
        links["compare"] = (
            f"{url}/#/compare-runs?runs={quote(json.dumps(chosen, separators=(',', ':')))}"
            f"&experiments={quote(json.dumps([place.experiment_id]))}&{WORKFLOW}"
        )
    run = f"{experiment}/runs/{place.parent_run_id}"
    links["search"] = f"{run}?{WORKFLOW}"
    links["plot"] = f"{run}/artifacts/front/pareto.html?{WORKFLOW}"
    return links


def children_filter(parent_run_id: str) -> str:
    """Return the filter that gives the trials of one search."""
    return f"tags.`mlflow.parentRunId` = '{parent_run_id}'"


def _listing(parent_run_id: str) -> str:
    facets = {
        "searchFilter": children_filter(parent_run_id),
        "orderByKey": ORDER,
        "orderByAsc": "false",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": "W10=",  # an empty list, as the UI writes it
    }
    return "&".join(f"{key}={quote(value, safe='')}" for key, value in facets.items())


def share_key(info: SearchInfo) -> str:
    """Return the share key of a search's view: the same again on resume."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"autoprune/{info.key}/trials").hex


def trials_view(
    parent_run_id: str, info: SearchInfo, metrics: Sequence[str], *, created: float
) -> str:
    """Return the saved view of a search's trials, as the UI writes and reads it.

    First a section with size against retention, parallel coordinates and the confirmed
    retention, then one section for the scores a task; everything else stays folded.

    Args:
        parent_run_id: The search's run.
        info: The search, for the names of its knobs.
        metrics: Names of the metrics that the trials have.
        created: Seconds since 1970, shown in the UI's list of views.
    """
    key = share_key(info)
    main, scores, rest = f"{key}-front", f"{key}-scores", f"{key}-rest"
    in_bytes = info.settings.get("objective") == "bytes"
    size, sizes = ("size/bytes", "Bytes") if in_bytes else ("size/params", "Parameters")
    bits = ["precision"] if in_bytes else []
    charts = [
        _chart(
            "SCATTER",
            f"{key}-scatter",
            main,
            displayName=f"{sizes} against retention",
            xaxis={"key": size, "type": "METRIC"},
            yaxis={"key": "retention", "type": "METRIC"},
            runsCountToCompare=500,
        ),
        _chart(
            "PARALLEL",
            f"{key}-parallel",
            main,
            displayName="Choices against retention",
            selectedParams=["axis", *bits, "recovery", "data_fraction", "fraction"],
            selectedMetrics=["retention"],
            showAllRuns=False,
            runsCountToCompare=500,
        ),
    ]
    for name in metrics:
        section = scores if name.startswith("score/") else rest
        if name in ("retention", "retention_confirmed"):
            section = main
        charts.append(
            _chart("BAR", f"{key}-{name}", section, metricKey=name, displayName=name.split("/")[-1])
        )
    sections = [
        {
            **_section(main, f"{info.name}: {sizes.lower()} against retention", shown=True),
            "columns": 2,
            "cardHeight": 440,
        },
        _section(scores, "score", shown=True),
        _section(rest, "more", shown=False),
    ]
    state = {
        "searchFilter": children_filter(parent_run_id),
        "orderByKey": ORDER,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [
            "metrics.`retention`",
            "metrics.`retention_confirmed`",
            f"metrics.`{size}`",
            *(f"params.`{name}`" for name in bits),
            "params.`axis`",
            "params.`recovery`",
            "params.`data_fraction`",
            "params.`fraction`",
            "tags.`state`",
            "tags.`reason`",
            "tags.`front`",
            "tags.`tie`",
        ],
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": charts,
        "compareRunSections": sections,
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "groupBy": None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "autoRefreshEnabled": True,
    }
    text = json.dumps(state, separators=(",", ":"))
    packed = "deflate;" + base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    name = f"{info.name}: trials"
    view = json.dumps({"name": name, "createdAt": int(created * 1000), "state": packed})
    if len(view) > VIEW_LIMIT and len(metrics) > 2:
        return trials_view(parent_run_id, info, metrics[: len(metrics) // 2], created=created)
    return view


def _chart(kind: str, chart_id: str, section: str, **fields: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": chart_id,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 100,
        **fields,
    }


def _section(section_id: str, name: str, *, shown: bool) -> dict[str, Any]:
    return {
        "uuid": section_id,
        "name": name,
        "display": shown,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }
