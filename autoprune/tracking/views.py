"""Saved views of the MLflow UI: which charts and columns a link opens on.

The UI keeps a view as a tag of the experiment, as its own 'Share' button does, and reads it back
by the share key in an address. One shows all trials of a search, one its front's members.
"""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from autoprune.tracking.links import ORDER, children_filter
from autoprune.tracking.records.costs import split_objective
from autoprune.tracking.records.summary import SearchInfo, SearchSummary
from autoprune.tracking.records.trial import TrialRecord

VIEW_LIMIT = 20_000  # characters that MLflow keeps in a tag of an experiment
KNOB_AXES = 2  # axes for knobs beside the others: more do not fit a screen
CONFIRMED = "retention_confirmed"
PARAMS = "size/params"
SIZES = {"bytes": ("size/bytes", "Bytes"), "memory": ("size/memory", "Memory")}
"""Unit of an objective -> its metric and heading, where those are not parameters."""
TOLD = frozenset({"axis", "size", "scope", "precision", "data_fraction"})
"""Knobs of which the record has what came of them, under names of their own."""


def share_key(info: SearchInfo, view: str = "trials") -> str:
    """Return the share key of a search's view, `trials` or `front`: the same again on resume."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"autoprune/{info.key}/{view}").hex


def trials_view(
    parent_run_id: str,
    info: SearchInfo,
    metrics: Sequence[str],
    knobs: Sequence[str] = (),
    *,
    created: float,
) -> str:
    """Return the saved view of a search's trials, as the UI writes and reads it.

    First a section with size against retention, parallel coordinates and the confirmed
    retention, then one section for the scores a task; everything else stays folded.

    Args:
        parent_run_id: The search's run.
        info: The search.
        metrics: Names of the metrics that the trials have.
        knobs: Names of the knobs that the list of trials has columns for.
        created: Seconds since 1970, shown in the UI's list of views.
    """
    key = share_key(info)
    main, scores, rest = f"{key}-front", f"{key}-scores", f"{key}-rest"
    size, sizes, timed = _sizes(info)
    bits = [] if size == PARAMS else ["precision"]
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
    view = _packed(
        f"{info.name}: trials",
        created,
        children_filter(parent_run_id),
        ORDER,
        charts,
        sections,
        [
            *("metrics.`retention`", f"metrics.`{CONFIRMED}`"),
            *(f"metrics.`{name}`" for name in (size, *timed) if name != PARAMS),
            *(f"params.`{name}`" for name in ("fraction", *bits, "axis", "recovery")),
            *(f"params.`{name}`" for name in ("data_fraction", *knobs)),
            *(f"tags.`{name}`" for name in ("front", "tie", "state", "reason")),
        ],
    )
    if len(view) > VIEW_LIMIT and len(metrics) > 2:
        return trials_view(
            parent_run_id, info, metrics[: len(metrics) // 2], knobs, created=created
        )
    return view


def front_view(
    parent_run_id: str,
    info: SearchInfo,
    summary: SearchSummary,
    records: Sequence[TrialRecord],
    *,
    created: float,
) -> str:
    """Return the saved view that compares the members of a search's front.

    Parallel coordinates over the whole width: what was chosen, the knobs in which the members
    differ, the confirmed retention, and the size, by which lines are coloured.

    Args:
        parent_run_id: The search's run.
        info: The search.
        summary: For the front.
        records: Of its trials, for their knobs.
        created: Seconds since 1970.
    """
    key = share_key(info, "front")
    main, bars = f"{key}-parallel", f"{key}-bars"
    size, _, timed = _sizes(info)
    members = {point.trial for point in summary.front}
    knobs = differing_knobs(record for record in records if record.trial in members)
    bits = [] if size == PARAMS else ["precision"]
    chosen = ["axis", *bits, "recovery", "data_fraction", *knobs[:KNOB_AXES]]
    charts = [
        _chart(
            "PARALLEL",
            f"{key}-chart",
            main,
            displayName="Choices against confirmed retention",
            selectedParams=chosen,
            selectedMetrics=[CONFIRMED, *timed, size],  # the last one colours the lines
            showAllRuns=True,
            runsCountToCompare=500,
        )
    ]
    for name in (CONFIRMED, size, *(timed or ["work/seconds_recover"])):
        charts.append(_chart("BAR", f"{key}-{name}", bars, metricKey=name, displayName=name))
    title = f"{info.name}: the front's choices, retention and size"
    sections = [
        {**_section(main, title, shown=True), "columns": 1, "cardHeight": 480},
        {**_section(bars, "one by one", shown=True), "columns": 3, "cardHeight": 320},
    ]
    return _packed(
        f"{info.name}: front",
        created,
        f"{children_filter(parent_run_id)} and tags.front = 'yes'",
        f"metrics.`{size}`",
        charts,
        sections,
        [
            *(f"metrics.`{name}`" for name in (CONFIRMED, size, *timed)),
            *(f"params.`{name}`" for name in (*chosen, "fraction")),
            "tags.`tie`",
        ],
    )


def differing_knobs(records: Iterable[TrialRecord]) -> list[str]:
    """Return the parameters of the knobs in which trials differ, those with most values first."""
    values: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.given.items():
            values.setdefault(name, set()).add(str(value))
    differ = [name for name, found in values.items() if len(found) > 1 and name not in TOLD]
    return [f"knob/{name}" for name in sorted(differ, key=lambda name: (-len(values[name]), name))]


def _sizes(info: SearchInfo) -> tuple[str, str, list[str]]:
    """Return the metric that sizes are in, its heading, and the metrics of latency if it counts."""
    unit, timed = split_objective(str(info.settings.get("objective", "params")))
    timed |= str(info.settings.get("timed")) == "True"
    size, heading = SIZES.get(unit, (PARAMS, "Parameters"))
    return size, heading, ["latency/seconds"] if timed else []


def _packed(
    name: str,
    created: float,
    runs: str,
    order: str,
    charts: list[dict[str, Any]],
    sections: list[dict[str, Any]],
    columns: list[str],
) -> str:
    """Return a view as the UI stores it: its state packed, with a name and a time."""
    state = {
        "searchFilter": runs,
        "orderByKey": order,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {column: _width(column) for column in columns},
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
    return json.dumps({"name": name, "createdAt": int(created * 1000), "state": packed})


def _width(column: str) -> int:
    """Return pixels that show a column's heading and most of its values whole."""
    name = column.partition("`")[2].rstrip("`")
    return max({"recovery": 140, "reason": 260, "tie": 260}.get(name, 0), 100, 7 * len(name) + 28)


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
