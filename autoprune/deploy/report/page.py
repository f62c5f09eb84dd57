"""A report as one HTML file: templates filled in, styles and scripts inside, no network."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.deploy.report.model import CONFIRMED, Chart, Report
from autoprune.errors import AutoPruneError

if TYPE_CHECKING:
    from autoprune.search.records.store import SearchStore
    from autoprune.tracking.records.summary import SearchSummary

STYLES = ("base.css", "chart.css", "parts.css")
SCRIPTS = ("page.js", "chart.js", "detail.js", "table.js")
"""Of `templates/`, in the order that they are put in."""


def render(report: Report) -> str:
    """Return the page of a report."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("autoprune.deploy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"pct": percent, "marks": drawn, "anchor": str.lower}
    return environment.get_template("report.html").render(
        r=report,
        confirmed=CONFIRMED,
        scale=max([1e-9, *(max(k.share, k.chance) for k in report.importances.knobs)]),
        longest=max([1e-9, *(max(s.seconds, s.forecast or 0.0) for s in report.stages)]),
        styles=Markup("\n".join(map(_text, STYLES))),
        scripts=Markup("\n".join(map(_text, SCRIPTS))),
        data=Markup(_json(report)),
    )


def write_page(report: Report, path: Path) -> None:
    """Write the page of a report; what stood there is replaced by the whole of it.

    Raises:
        AutoPruneError: the file cannot be written.
    """
    from autoprune.search.records.store import write_atomically

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, render(report))
    except OSError as error:
        raise AutoPruneError(
            f"cannot write the report to {path} ({error.strerror}): name another file by -o"
        ) from None


def attached(store: SearchStore, summary: SearchSummary) -> dict[str, str]:
    """Return the page that is kept beside a finished search in MLflow, by its path there."""
    from autoprune.deploy.report.gather import gather

    return {"report/report.html": render(gather(store, summary))}


def percent(share: float) -> str:
    """Return a share as CSS writes it, held within what can be drawn."""
    return f"{100 * min(max(share, -0.5), 1.5):.3f}%"


def drawn(chart: Chart) -> list[Any]:
    """Return the marks inside the frame, those that matter most last, so that they lie on top."""
    order = (
        "failed",
        "stopped",
        "running",
        "trial",
        "dominated",
        "below",
        "baseline",
        "tied",
        "front",
    )
    inside = [mark for mark in chart.marks if mark.inside]
    return sorted(inside, key=lambda mark: (order.index(mark.kind), mark.x))


def _text(name: str) -> str:
    return resources.files("autoprune.deploy.report").joinpath("templates", name).read_text()


def _json(report: Report) -> str:
    """Return what the scripts read; no text in it can end the element that it stands in."""
    value = {
        "chosen": report.chosen,
        "frame": report.frame,
        "details": {one.trial: one.model_dump(mode="json") for one in report.details},
    }
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
