"""The MLflow UI over a store with a search in it, as a person opens it."""

from __future__ import annotations

import http.server
import os
import re
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.browser import CHROMIUM, MISSING, Page, open_browser
from support.cards import write_card
from tracking_fakes import fake_info, fake_summary, fake_trials

from autoprune.errors import AutoPruneError
from autoprune.tracking.links import search_links
from autoprune.tracking.location import default_uri
from autoprune.tracking.records.summary import LoggedSearch, SearchSummary
from autoprune.tracking.records.trial import TrialRecord
from autoprune.tracking.registry import register
from autoprune.tracking.ui import _free_port, _is_free, running_ui, start_ui
from autoprune.tracking.writer import Writer

# The assistant of MLflow's own takes a quarter of the screen on a first visit.
CALM = """
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
"""
USER = "/users/current"  # MLflow asks for it, and a server without accounts does not know
# What MLflow shows over a page when a request fails.
TOASTS = """
[...document.querySelectorAll('[class*="notification-notice"], [class*="alert-error"]')]
    .map(e => e.innerText.trim()).filter(t => t)
"""
WRONG = re.compile(
    r"something went wrong|page not found|RESOURCE_DOES_NOT_EXIST|INTERNAL_ERROR"
    r"|failed to (load|fetch)|an error occurred|can.t load|no runs logged",
    re.IGNORECASE,
)


def test_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(AutoPruneError, match="autoprune search"):
        start_ui(tmp_path)


def test_a_port_in_use(home: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(AutoPruneError, match="leave --port out"):
            start_ui(home, port=listener.getsockname()[1])
    with pytest.raises(AutoPruneError, match="browsers refuse"):
        start_ui(home, port=5060)
    with pytest.raises(AutoPruneError, match="65535"):
        start_ui(home, port=70_000)


def test_the_next_free_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        monkeypatch.setattr("autoprune.tracking.ui.PORT", taken)
        assert taken < _free_port("127.0.0.1", None) < taken + 20


@pytest.mark.slow
def test_anothers_server_is_not_taken_for_ours(
    home: Path, searched: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that start at once both see the port free; the later one must not show the other's."""

    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        port = other.server_address[1]
        looks: list[int] = []

        def is_free(host: str, candidate: int) -> bool:
            looks.append(candidate)
            return looks == [port] or _is_free(host, candidate)

        monkeypatch.setattr("autoprune.tracking.ui.PORT", port)
        monkeypatch.setattr("autoprune.tracking.ui._is_free", is_free)
        with running_ui(home) as ui:
            assert looks.count(port) == 3  # free, taken when the server ended, taken
            assert int(ui.url.rpartition(":")[2]) > port
            assert ui.process is not None
            assert ui.process.poll() is None
        looks.clear()
        with pytest.raises(AutoPruneError, match="did not start"):
            start_ui(home, port=port)
        other.shutdown()


def test_a_server_that_cannot_start_says_why(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = [sys.executable, "-c", "import sys; sys.exit('database is from the future')"]
    monkeypatch.setattr("autoprune.tracking.ui._command", lambda *_: fails)
    with pytest.raises(AutoPruneError, match="did not start: database is from the future"):
        start_ui(home)


def logged(home: Path, records: list[TrialRecord], summary: SearchSummary) -> LoggedSearch:
    """Log a search as the writer's process does, in this one."""
    answers: list[dict[str, Any]] = []
    writer = Writer(answers.append)
    info = fake_info().model_dump(mode="json")
    opening = {"do": "open", "uri": default_uri(home), "info": info}
    writer.take({**opening, "artifacts": (home / "a").as_uri(), "experiment": "autoprune"})
    for record in records:
        writer.take({"do": "trial", "record": record.model_dump(mode="json")})
    writer.take({"do": "summary", "summary": summary.model_dump(mode="json")})
    writer.take({"do": "close", "state": "complete", "reason": ""})
    writer.work()
    assert writer.report()["closed"]
    return LoggedSearch.model_validate(answers[-1]["place"])


@pytest.fixture
def searched(home: Path, tmp_path: Path) -> tuple[LoggedSearch, SearchSummary]:
    """A finished search in a home, one of its points exported and registered."""
    records = fake_trials(12)
    summary = fake_summary(records)
    place = logged(home, records, summary)
    point = summary.front[-1]
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    write_card(checkpoint, records[point.trial], point)
    made = register(default_uri(home), checkpoint, "small")
    assert made.linked
    return place, summary


def shown(page: Page, address: str, wanted: list[str]) -> str:
    """Open a page and return its text once all that is wanted stands on it."""
    page.open("about:blank")  # addresses differ behind '#' only, which loads nothing
    page.open(address)
    missing = wanted
    for _ in range(100):
        text = page.js("document.body.innerText").replace("\xa0", " ")
        missing = [each for each in wanted if each not in text]
        if not missing:
            break
        page.wait("true", 1)
        time.sleep(0.2)
    assert not missing, f"{address} does not show {missing}: {text}"
    toasts = page.js(TOASTS)
    assert not toasts, f"{address}: {toasts}"
    assert not WRONG.search(text), text
    return str(text)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
def test_every_link_opens_on_what_it_promises(
    home: Path, tmp_path: Path, searched: tuple[LoggedSearch, SearchSummary]
) -> None:
    place, summary = searched
    front = [point.name for point in summary.front]
    others = sorted({f"trial-{trial:04d}" for trial in range(12)} - set(front))
    task = next(iter(summary.front[-1].scores))
    with running_ui(home) as ui, open_browser(tmp_path / "profile") as browser:
        links = search_links(place, local=ui.url, points=summary.front)
        page = browser.page()
        page.emulate(1600, 1000)
        page.before(CALM)
        knob = "knob/temperature"
        wanted = {
            "trials": [*front, *others, "demo: parameters against retention", "data_fraction"],
            "table": [*front, *others, "retention", "retention_confirmed", "fraction", knob],
            "compare": [*front, "choices, retention and size", "recovery", knob, "size/params"],
            "diff": [f"Comparing {len(front)} Runs", *front, "retention_confirmed", knob],
            "search": ["budget 60%", "front/hypervolume", "small", "setting/sampler"],
            "plot": ["pareto.html", "keep_map.png", "front.csv"],
            "models": ["small", "@ champion"],
        }
        assert set(wanted) == set(links)
        for name, address in links.items():
            text = shown(page, address, wanted[name])
            if name == "compare":
                assert not [other for other in others if other in text]
            if name == "plot":
                page.wait("document.querySelector('iframe') !== null")
        model = f"{ui.url}/#/models/small"
        text = shown(page, model, ["@ champion", "Version 1", "models:/small@champion"])
        assert "demo" in text
        found = f"{summary.front[-1].retention.mean:.3f}"
        shown(page, f"{model}/versions/1", ["@ champion", front[-1], task, found])
        refused = [each for each in page.refused if not each.endswith(USER)]
        assert not refused
        # What is not there is told, so that the above can fail.
        page.open("about:blank")
        page.open(f"{ui.url}/#/models/none")
        page.wait(f"/{WRONG.pattern}/i.test(document.body.innerText)")


@pytest.mark.slow
def test_the_ui_ends_with_its_block(home: Path) -> None:
    with running_ui(home) as ui:
        assert ui.process is not None
        group = ui.process.pid
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(group, signal.SIGKILL)
        pytest.fail("the UI outlived its block")
