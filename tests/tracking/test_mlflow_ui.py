"""The MLflow UI over a store with a search in it, as a person opens it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tracking_fakes import fake_info, fake_trials

from autoprune.errors import AutoPruneError
from autoprune.tracking.links import search_links
from autoprune.tracking.location import default_uri
from autoprune.tracking.records import LoggedSearch, TrialRecord
from autoprune.tracking.ui import _free_port, running_ui, start_ui
from autoprune.tracking.writer import Writer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,1200",
    "--virtual-time-budget=30000",
    "--dump-dom",
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
    with pytest.raises(AutoPruneError, match="65535"):
        start_ui(home, port=70_000)


def test_the_next_free_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        monkeypatch.setattr("autoprune.tracking.ui.PORT", taken)
        assert taken < _free_port("127.0.0.1", None) < taken + 20


def test_a_server_that_cannot_start_says_why(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = [sys.executable, "-c", "import sys; sys.exit('database is from the future')"]
    monkeypatch.setattr("autoprune.tracking.ui._command", lambda *_: fails)
    with pytest.raises(AutoPruneError, match="did not start: database is from the future"):
        start_ui(home)


def dom(url: str, folder: Path) -> str:
    """The page as it stands after its scripts have run."""
    assert CHROMIUM is not None
    answer = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", url],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return answer.stdout


def logged(home: Path, records: list[TrialRecord]) -> LoggedSearch:
    """Log a search as the writer's process does, in this one."""
    answers: list[dict[str, Any]] = []
    writer = Writer(answers.append)
    info = fake_info().model_dump(mode="json")
    opening = {"do": "open", "uri": default_uri(home), "info": info}
    writer.take({**opening, "artifacts": (home / "a").as_uri(), "experiment": "autoprune"})
    for record in records:
        writer.take({"do": "trial", "record": record.model_dump(mode="json")})
    writer.take({"do": "close", "state": "complete", "reason": ""})
    writer.work()
    assert writer.report()["closed"]
    return LoggedSearch.model_validate(answers[-1]["place"])


@pytest.mark.slow
def test_links_open_on_the_trials(home: Path, tmp_path: Path) -> None:
    records = fake_trials(12)
    place = logged(home, records)
    with running_ui(home) as ui:
        links = search_links(place, local=ui.url)
        assert ui.process is not None
        group = ui.process.pid
        if CHROMIUM is not None:
            page = dom(links["trials"], tmp_path / "profile")
            for record in records:
                assert record.name in page
            assert "demo: parameters against retention" in page
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(group, signal.SIGKILL)
        pytest.fail("the UI outlived its block")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: the links were not opened in a browser")
