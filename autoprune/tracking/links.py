"""Addresses in the MLflow UI that open on one search's trials.

The UI nests a trial under its search, collapsed, and its charts then show the search's own run
only. Two things bring the trials to the front: an order by a metric, which flattens the list,
and a saved view (`autoprune.tracking.views`), which says which charts stand on the page. Without
the view the charts hold ten runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote

from autoprune.tracking.location import is_server, without_credentials
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.summary import LoggedSearch

LOCAL_UI = "http://127.0.0.1:5000"
ORDER = "metrics.`retention`"
WORKFLOW = "workflowType=machine_learning"  # of the UI's two faces, the one with runs and charts


def base_url(uri: str, local: str = LOCAL_UI) -> str:
    """Return the address of the UI: the tracking server itself, or the one started locally."""
    return (without_credentials(uri) if is_server(uri) else local).rstrip("/")


def search_links(
    place: LoggedSearch, *, local: str = LOCAL_UI, points: Sequence[FrontPoint] = ()
) -> dict[str, str]:
    """Return what to open, by name.

    `trials` opens on the charts of all trials (Pareto scatter and parallel coordinates first),
    `table` on the list of them, `compare` on parallel coordinates of the front's members,
    `diff` puts the confirmed points side by side, `search` is the run that holds the Pareto plot,
    the keep map and the front as a table, and `models` lists what was registered.
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
    if share := place.views.get("front"):
        view = f"{experiment}/runs?viewStateShareKey={quote(share)}"
        links["compare"] = f"{view}&compareRunsMode=CHART&{WORKFLOW}"
    chosen = [place.runs[p.trial] for p in points if p.trial in place.runs]
    if len(chosen) > 1:
        links["diff"] = (
            f"{url}/#/compare-runs?runs={quote(json.dumps(chosen, separators=(',', ':')))}"
            f"&experiments={quote(json.dumps([place.experiment_id]))}&{WORKFLOW}"
        )
    run = f"{experiment}/runs/{place.parent_run_id}"
    links["search"] = f"{run}?{WORKFLOW}"
    links["plot"] = f"{run}/artifacts/front/pareto.html?{WORKFLOW}"
    links["models"] = f"{url}/#/models?{WORKFLOW}"
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
