"""The search never waits for MLflow, never fails with it, and leaves no run RUNNING."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tracking_fakes import fake_info, fake_summary, fake_trial, fake_trials, statuses

from autoprune.tracking.records.summary import LoggedSearch
from autoprune.tracking.records.trial import TrialRecord
from autoprune.tracking.tracker import Tracker, read_place
from autoprune.tracking.writer import Writer

DRIVER = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tracking_fakes import fake_info, fake_trial
from autoprune.tracking.tracker import Tracker
home = Path(sys.argv[1])
tracker = Tracker(fake_info(), home=home, directory=home / "searches")
for number in range(3):
    tracker.log_trial(fake_trial(number))
tracker.log_trial(fake_trial(3, "running"))
tracker.wait_place(60)
print("logged", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return
        time.sleep(0.2)
    pytest.fail(f"did not come true within {seconds} s")


def test_a_killed_driver_leaves_nothing_running_and_resumes(home: Path) -> None:
    here = Path(__file__).parent
    driver = subprocess.run(
        [sys.executable, "-c", DRIVER, str(home), str(here)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert driver.returncode == -signal.SIGKILL, driver.stderr
    assert driver.stdout == "logged\n"

    def settled() -> bool:
        found = dict(statuses(home))
        return "trial-0003" in found and "RUNNING" not in found.values()

    wait_until(settled)
    killed = dict(statuses(home))
    assert killed["trial-0003"] == "KILLED"
    assert killed["demo"] == "KILLED"

    # The search resumes: trial 3 was lost and comes again under another number.
    place = read_place(home / "searches")
    warnings: list[str] = []
    tracker = Tracker(fake_info(), home=home, directory=home / "searches", warn=warnings.append)
    records = [fake_trial(number) for number in (0, 1, 2, 4)]
    tracker.sync(records[:3])
    tracker.log_trial(records[3])
    summary = fake_summary(records)
    tracker.log_summary(summary)
    tracker.log_text("report/report.html", "<p>ü</p>")
    assert tracker.close(timeout=60)
    assert warnings == []
    (kept,) = (home / "artifacts").glob("*/artifacts/report/report.html")
    assert kept.read_text() == "<p>ü</p>"
    after = statuses(home)
    assert [name for name, _ in after] == ["demo", *(f"trial-000{n}" for n in range(5))]
    assert [status for _, status in after] == ["FINISHED"] * 4 + ["KILLED", "FINISHED"]
    assert place is not None
    assert tracker.place is not None
    assert tracker.place.parent_run_id == place.parent_run_id
    assert read_place(home / "searches") == tracker.place
    assert sorted(tracker.place.runs) == [0, 1, 2, 3, 4]


def test_handing_over_takes_no_time_and_a_dead_server_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    warnings: list[str] = []
    tracker = Tracker(fake_info(), home=tmp_path, uri=uri, warn=warnings.append)
    started = time.perf_counter()
    for record in fake_trials(24):
        tracker.log_trial(record)
    assert time.perf_counter() - started < 0.5
    tracker.log_summary(fake_summary())
    assert not tracker.close(timeout=60)
    assert 1 <= len(warnings) <= 2  # that it is away, and at the end that it stayed away
    assert "resumed" in warnings[-1]
    assert all("\n" not in line for line in warnings)
    assert tracker.report["unlogged"] == 25


def test_a_dead_writer_costs_one_line(tmp_path: Path) -> None:
    warnings: list[str] = []
    tracker = Tracker(fake_info(), home=tmp_path, warn=warnings.append)
    os.kill(tracker._process.pid, signal.SIGKILL)
    tracker._process.wait()
    for record in fake_trials(12):
        tracker.log_trial(record)
    assert not tracker.close(timeout=5)
    assert len(warnings) == 1


def test_a_slow_end_is_finished_without_the_driver(home: Path) -> None:
    warnings: list[str] = []
    tracker = Tracker(fake_info(), home=home, warn=warnings.append)
    tracker.log_trial(fake_trial(0))
    assert not tracker.close("stopped", "interrupted", timeout=0)
    assert "slow" in warnings[0]
    assert tracker._process.wait(60) == 0
    assert statuses(home) == [("demo", "KILLED"), ("trial-0000", "FINISHED")]


class FakeStore:
    """Stands in for MLflow, and is away when told so."""

    def __init__(self, *_: object, **__: object) -> None:
        self.away = False
        self.refused: set[int] = set()
        self.logged: list[int] = []
        self.ended: list[str] = []
        self.settled: list[tuple[set[int], str]] = []
        self.summaries = 0
        self.parent = "p"
        self.info = fake_info()

    def _reach(self) -> None:
        if self.away:
            raise ConnectionError("no route to host\nand more")

    def open(self) -> None:
        self._reach()

    def log_trial(self, record: TrialRecord) -> None:
        self._reach()
        if record.trial in self.refused:
            error = ValueError("param too long")
            error.error_code = "INVALID_PARAMETER_VALUE"  # type: ignore[attr-defined]
            raise error
        self.logged.append(record.trial)

    def log_points(self, *_: object) -> None:
        self._reach()

    def log_summary(self, *_: object) -> None:
        self.summaries += 1

    def log_files(self, _: Path) -> None:
        raise OSError("no such bucket")

    def log_text(self, path: str, text: str) -> None:
        raise OSError("no such bucket")

    def set_view(self, *_: object) -> None:
        self._reach()

    def settle(self, live: Any, reason: str) -> None:
        self._reach()
        self.settled.append((set(live), reason))

    def close(self, state: str, reason: str = "") -> None:
        self._reach()
        self.ended.append(state)

    def is_mine(self) -> bool:
        return True

    def place(self, views: dict[str, str]) -> LoggedSearch:
        return LoggedSearch(uri="u", experiment_id="1", parent_run_id="p", views=views)


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Any:
    store = FakeStore()
    monkeypatch.setattr("autoprune.tracking.writer.MlflowStore", lambda *_, **__: store)
    sent: list[dict[str, Any]] = []
    made = Writer(sent.append)
    made.sent = sent  # type: ignore[attr-defined]
    made.fake = store  # type: ignore[attr-defined]
    made.take(
        {
            "do": "open",
            "uri": "u",
            "info": fake_info().model_dump(),
            "artifacts": None,
            "experiment": "e",
        }
    )
    return made


def trial(record: TrialRecord) -> dict[str, Any]:
    return {"do": "trial", "record": record.model_dump(mode="json")}


def warned(writer: Any) -> list[str]:
    return [message["warning"] for message in writer.sent if "warning" in message]


def test_an_outage_in_mid_search_loses_nothing(writer: Any) -> None:
    writer.take(trial(fake_trial(0)))
    writer.work()
    writer.fake.away = True
    for number in (1, 2):
        writer.take(trial(fake_trial(number)))
        writer.work()
    assert warned(writer) == ["MLflow takes no runs for now (no route to host)"]
    writer.fake.away = False
    writer.work()
    assert writer.fake.logged == [0]  # not before it is time to try again
    writer._retry_at = 0
    writer.work()
    assert writer.fake.logged == [0, 1, 2]
    assert writer.idle
    assert writer.report()["unlogged"] == 0


def test_the_end_tries_once_more(writer: Any) -> None:
    writer.fake.away = True
    writer.take(trial(fake_trial(0)))
    writer.work()
    writer.fake.away = False
    writer.take({"do": "close", "state": "complete", "reason": ""})
    writer.work()
    assert writer.fake.logged == [0]
    assert writer.fake.ended == ["complete"]
    assert writer.report()["closed"]


def test_a_record_that_mlflow_refuses_does_not_hold_up_the_others(writer: Any) -> None:
    writer.fake.refused = {0}
    for number in range(3):
        writer.take(trial(fake_trial(number)))
    writer.work()
    assert writer.fake.logged == [1, 2]
    assert writer.idle
    assert len(warned(writer)) == 1


def test_an_artifact_store_that_is_away_costs_the_plots_only(writer: Any) -> None:
    records = fake_trials(8)
    for record in records:
        writer.take(trial(record))
    writer.take({"do": "summary", "summary": fake_summary(records).model_dump(mode="json")})
    writer.work()
    assert writer.fake.summaries == 1
    assert "no such bucket" in warned(writer)[0]
    assert writer.idle


def test_the_end_of_a_driver_ends_its_runs(writer: Any) -> None:
    writer.take(trial(fake_trial(0, "running")))
    writer.work()
    writer.abandon()
    assert writer.fake.ended == ["stopped"]
    assert writer.fake.settled[-1][0] == set()


def test_a_later_writer_takes_over(writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.take(trial(fake_trial(0, "running")))
    writer.work()
    monkeypatch.setattr(writer.fake, "is_mine", lambda: False)
    writer.abandon()
    assert writer.fake.ended == []
