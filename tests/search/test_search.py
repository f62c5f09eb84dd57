"""Whole searches through Ray, on a toy problem."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.search_toy import ToyProblem, ToyWork, write_space

from autoprune.errors import AutoPruneError, StoppedError
from autoprune.search.driver import run_search
from autoprune.search.listener import SearchListener
from autoprune.search.records.stages import Forecast
from autoprune.search.records.store import SearchStore, search_dir
from autoprune.search.settings import SearchSettings, make_settings
from autoprune.search.workers.session import RaySession
from autoprune.tracking.records.trial import TrialRecord

TESTS = Path(__file__).parents[1]


def settings(home: Path, **values: Any) -> SearchSettings:
    home.mkdir(parents=True, exist_ok=True)
    asked = {"name": "toy", "home": home, "space": write_space(home), "trials": 8, "workers": 2}
    return make_settings({**asked, **values})


@pytest.fixture(scope="module")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray session for the searches of this module."""
    with RaySession(settings(tmp_path_factory.mktemp("ray"))) as session:
        session.ready()
        yield


class Watch(SearchListener):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.confirmed: list[tuple[int, int]] = []
        self.done = 0
        self.forecasts: list[Forecast] = []

    def on_forecast(self, forecast: Forecast) -> None:
        self.forecasts.append(forecast)

    def on_stage(self, text: str) -> None:
        self.stages.append(text)

    def on_confirm(self, done: int, total: int) -> None:
        self.confirmed.append((done, total))

    def on_done(self, summary: Any) -> None:
        self.done += 1


def records(home: Path) -> dict[int, TrialRecord]:
    return SearchStore(search_dir(home, "toy")).records()


def log_of(path: Path) -> list[tuple[int, float]]:
    """Return (trial, share) of each rung that a worker ran."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(number, share) for number, share, *_ in rows]


@pytest.mark.usefixtures("ray_session")
class TestSearch:
    def test_troubles_are_recorded_and_the_search_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Ray is up already; where it is not, waiting for it is part of what preparing takes.
        monkeypatch.setattr(RaySession, "ready", lambda session: time.sleep(0.5))
        trouble = {2: "raise", 3: "nan", 4: "memory", 5: "kill", 6: "write", 7: "kill-twice"}
        trouble[9] = "kill"
        work = ToyWork(trouble=trouble, log=str(tmp_path / "log"))
        watch = Watch()
        asked = settings(tmp_path, trials=10, early_stopping=False)
        expected = Forecast(1.0, 20.0, 300.0, disk=0, runs=1, tokens=1)
        problem = ToyProblem(work, expected=expected)
        summary = run_search(asked, watch, problem, tracking=False)
        assert watch.forecasts == [expected]
        assert [s.stage for s in summary.stages] == ["prepare", "trials", "confirm"]
        assert [s.forecast for s in summary.stages] == [1.0, 20.0, 300.0]
        assert all(s.seconds > 0 for s in summary.stages)
        assert summary.stages[0].seconds >= 0.5
        assert summary.ended == "all 10 trials were launched"
        assert [rung.share for rung in summary.rungs] == [0.0, 0.5]
        found = records(tmp_path)
        assert found[2].reason == "ValueError: no such luck second line"
        assert "nan" in found[3].reason
        assert found[4].reason == "out of memory: 640K"
        assert "read-only" in found[6].reason
        assert found[7].reason.startswith("its worker was killed twice")
        states = {number: record.state for number, record in found.items()}
        failed = {2, 3, 4, 6, 7}
        assert states == {n: "failed" if n in failed else "complete" for n in range(10)}
        # The killed worker's trial went on from its checkpoint: no rung twice.
        rungs = log_of(tmp_path / "log")
        assert [share for number, share in rungs if number == 5] == [0, 0.5, 1]
        # Where it refines, the layout that was found is not looked for again.
        assert [found[n].origin for n in (8, 9)] == ["refine", "refine"]
        assert (tmp_path / "killed-9").exists()
        assert sorted((tmp_path / "log-climbs").read_text().split()) == ["8", "9"]
        assert {point.trial for point in summary.points} <= set(states) - failed
        store = SearchStore(search_dir(tmp_path, "toy"))
        assert "no such luck" in (store.directory / "trials" / "0002.error.txt").read_text()
        assert not list((store.directory / "rungs").iterdir())
        assert watch.stages == ["prepare", "trials", "confirm"]
        assert watch.confirmed[-1][0] == watch.confirmed[-1][1] > 0
        assert watch.done == 1
        assert store.state() == "finished"

        # A second call shows the front at once; more trials go on with it.
        started = time.monotonic()
        assert run_search(asked, watch, ToyProblem(work), tracking=False) == summary
        assert time.monotonic() - started < 2
        more = asked.model_copy(update={"trials": 12})
        run_search(more, watch, ToyProblem(work), tracking=False)
        assert len(records(tmp_path)) == 12
        assert len(log_of(tmp_path / "log")) == len(rungs) + 6
        # Fewer show what there is; that 12 were asked for stays written.
        run_search(asked, watch, ToyProblem(work), tracking=False)
        assert store.settings().trials == 12

    def test_all_trials_fail(self, tmp_path: Path) -> None:
        work = ToyWork(trouble=dict.fromkeys(range(40), "raise"))
        asked = settings(tmp_path, trials=4)
        with pytest.raises(StoppedError, match=r"all 4 trials .* no such luck") as caught:
            run_search(asked, None, ToyProblem(work), tracking=False)
        assert caught.value.exit_code == 3
        # Once the cause is mended, they are tried again.
        assert run_search(asked, None, ToyProblem(), tracking=False).points
        assert {r.state for r in records(tmp_path).values()} <= {"complete", "stopped"}

    def test_one_worker_and_one_seed_give_identical_trials(self, tmp_path: Path) -> None:
        found = []
        for home in ("a", "b"):
            run_search(settings(tmp_path / home, workers=1), None, ToyProblem(), tracking=False)
            found.append(
                [r.model_dump(exclude={"stage_seconds"}) for r in records(tmp_path / home).values()]
            )
        assert found[0] == found[1]

    def test_max_hours_stops_launching(self, tmp_path: Path) -> None:
        work = ToyWork(seconds=0.5)
        asked = settings(tmp_path, trials=1000, max_hours=3 / 3600)
        run_search(asked, None, ToyProblem(work), tracking=False)
        found = records(tmp_path)
        assert 1 <= len(found) < 100
        assert all(record.state != "running" for record in found.values())

    def test_a_search_that_is_being_run_is_left_alone(self, tmp_path: Path) -> None:
        asked = settings(tmp_path)
        store = SearchStore(search_dir(tmp_path, "toy"))
        store.open(asked)
        with store.lock(), pytest.raises(AutoPruneError, match=str(os.getpid())):
            run_search(asked, None, ToyProblem(), tracking=False)


def test_bad_input_leaves_nothing(tmp_path: Path) -> None:
    class Refuses(ToyProblem):
        def prepare(self, *args: Any) -> Any:
            raise AutoPruneError("budget '99%' is at the dense size: ask for less")

    with pytest.raises(AutoPruneError, match="99%"):
        run_search(settings(tmp_path), None, Refuses(), tracking=False)
    assert not list((tmp_path / "searches").iterdir())
    with pytest.raises(AutoPruneError, match="tracking"):
        run_search(settings(tmp_path, tracking_uri="http://127.0.0.1:9"), None, ToyProblem())
    assert not list((tmp_path / "searches").iterdir())


@pytest.mark.parametrize(
    ("address", "text"),
    [("127.0.0.1:9", "does not answer"), ("head", "host:port"), ("head:port", "host:port")],
)
def test_a_ray_address_that_does_not_answer(address: str, text: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(AutoPruneError, match=f"--ray-address '{address}'.*{text}"):
        run_search(settings(tmp_path, ray_address=address), None, ToyProblem(), tracking=False)
    assert time.monotonic() - started < 10
    assert not list((tmp_path / "searches").iterdir())


# ---- killed drivers, each in a process of its own

DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.search_toy import ToyProblem, ToyWork
from autoprune.errors import AutoPruneError
from autoprune.search.driver import run_search
from autoprune.search.settings import make_settings
home = Path({home!r})
settings = make_settings(dict(
    name="toy", home=home, space=str(home / "toy.yaml"), trials=9, workers=2
))
try:
    run_search(settings, None, ToyProblem(ToyWork(0.8, log=str(home / "log"))), tracking={track})
except AutoPruneError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def start(home: Path, track: bool = False) -> subprocess.Popen[str]:
    write_space(home)
    code = DRIVER.format(tests=str(TESTS), home=str(home), track=track)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(home: Path, ended: int, process: subprocess.Popen[str], limit: float = 180) -> None:
    begun = time.monotonic()
    while time.monotonic() - begun < limit:
        found = records(home)
        if sum(record.state != "running" for record in found.values()) >= ended:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("no trial ended in time")


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the driver's children by birth or by Ray session."""
    found = []
    for other in psutil.process_iter(["pid"]):
        try:
            line = " ".join(other.cmdline())
        except psutil.Error:
            continue
        if f"_{process.pid}/" in line or f"_{process.pid} " in f"{line} ":
            found.append(other)
    return found


@pytest.mark.slow
def test_killed_then_told_to_stop_then_run_to_its_end(tmp_path: Path) -> None:
    """kill -9, the same command with SIGTERM, the same command again: nothing lost or doubled."""
    store = SearchStore(search_dir(tmp_path, "toy"))
    first = start(tmp_path)
    wait_for(tmp_path, 2, first)
    time.sleep(0.5)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = records(tmp_path)
    kept = {n for n, record in before.items() if record.state != "running"}
    assert store.state() == "interrupted"

    second = start(tmp_path)
    wait_for(tmp_path, len(kept) + 1, second)
    os.kill(second.pid, signal.SIGTERM)
    told = time.monotonic()
    _, err = second.communicate(timeout=60)
    assert second.returncode == 3, err
    assert err.strip() == f"stopped; 'autoprune search --resume toy --home {tmp_path}' goes on"
    assert time.monotonic() - told < 30  # a few seconds where the machine is not busy
    assert store.state() == "interrupted"
    assert not (store.directory / "lock").exists()
    assert store.seconds() > 0
    middle = records(tmp_path)
    kept |= {n for n, record in middle.items() if record.state != "running"}
    ran = log_of(tmp_path / "log")

    third = start(tmp_path)
    out, err = third.communicate(timeout=300)
    assert third.returncode == 0, err
    assert out == ""
    after = records(tmp_path)
    assert sorted(after) == list(range(9))
    assert all(record.state in ("complete", "stopped") for record in after.values())
    for number in kept:  # every finished trial is kept, once, and not run again
        assert after[number] == middle[number]
    for number in set(before) | set(middle):  # unfinished ones go on with the same knobs
        assert after[number].knobs == {**before, **middle}[number].knobs
    times = Counter(log_of(tmp_path / "log"))
    assert all(times[entry] == Counter(ran)[entry] for entry in ran if entry[0] in kept)
    # A stop costs at most the rung in flight and the cheap first one.
    assert all(count <= 3 for count in times.values())
    assert sum(count - 1 for (_, share), count in times.items() if share > 0) <= 4
    assert store.state() == "finished"
    gone = time.monotonic() + 90
    while (left := [p for d in (first, second, third) for p in family(d)]) and (
        time.monotonic() < gone
    ):
        time.sleep(0.5)
    assert not left, [p.cmdline() for p in left]
