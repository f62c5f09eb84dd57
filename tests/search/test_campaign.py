"""A search followed step by step, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.toy_campaign import BASELINES, TOY, campaign, fields, play, run_trial

from autoprune.search.campaign import GIVE_UP, Campaign
from autoprune.search.listener import Progress, SearchListener
from autoprune.search.sampling.samplers import SAMPLERS
from autoprune.search.work import Baseline, TrialJob
from autoprune.tracking.records.trial import TrialRecord


class Watch(SearchListener):
    def __init__(self) -> None:
        self.trials: list[TrialRecord] = []
        self.progress: list[Progress] = []

    def on_trial(self, record: TrialRecord) -> None:
        self.trials.append(record)

    def on_front(self, front: Any, progress: Progress) -> None:
        self.progress.append(progress)


def ended(c: Campaign) -> dict[int, tuple[str, dict[str, Any]]]:
    return {n: (r.state, dict(r.knobs)) for n, r in c.records.items()}


def test_baselines_run_first_and_once(tmp_path: Path) -> None:
    c = campaign(tmp_path)
    play(c)
    assert [c.records[n].origin for n in range(3)] == ["uniform", "outside", "sampler"]
    assert len(c.records) == 12
    assert all(record.state != "running" for record in c.records.values())
    again = campaign(tmp_path, trials=14)
    play(again)
    origins = [record.origin for record in again.records.values()]
    assert len(origins) == 14
    assert origins.count("uniform") == origins.count("outside") == 1


def test_bytes_are_what_counts_where_they_are_the_objective(tmp_path: Path) -> None:
    """The larger a trial's parameters here, the fewer its bytes; so the front turns over."""
    c = campaign(tmp_path, objective="bytes", early_stopping=False)
    while (job := c.next_job()) is not None:
        for rung in range(3):
            known = fields(job, rung)
            share = 1.0 - known["fraction"]
            assert c.arrived(
                job.number, {**known, "bytes": int(4000 * share), "bytes_fraction": share}
            )
        c.finished(job.number)
    told = {t.user_attrs["trial"]: t.values for t in c.study.trials() if t.values is not None}
    assert all(told[n][0] == c.records[n].bytes_fraction for n in told)
    arrivals = c.halving.arrivals[1].values()
    assert all(a.size == c.records[a.trial].bytes_fraction for a in arrivals)
    front = c.front()
    assert [r.bytes for r in front] == sorted(r.bytes or 0 for r in front)
    best = max(c.records.values(), key=lambda r: r.retention or 0)
    smallest = max(c.records.values(), key=lambda r: r.params or 0)
    assert {best.trial, smallest.trial} <= {r.trial for r in front}
    # A search that goes on from its records knows the same.
    again = campaign(tmp_path, objective="bytes", early_stopping=False)
    assert [r.trial for r in again.front()] == [r.trial for r in front]
    assert again.halving.arrivals == c.halving.arrivals


def test_a_baseline_outside_the_space_runs_but_is_not_told(tmp_path: Path) -> None:
    c = campaign(tmp_path)
    play(c)
    assert c.records[1].knobs["axis"] == "hybrid"
    told = {trial.user_attrs["trial"] for trial in c.study.trials()}
    assert told == set(range(12)) - {1}


def test_records_sum_what_the_rungs_cost(tmp_path: Path) -> None:
    c = campaign(tmp_path, early_stopping=False)
    play(c)
    record = c.store.records()[3]
    assert record.stage_seconds == {"recover": 3.0}
    assert record.flops == 30.0
    assert len(record.rung_values) == 3
    assert record.rung_values[2] == record.retention
    assert record.rung_values[0] == -(record.proxy_kl or 0)


@pytest.mark.parametrize("left", [0, 1])
def test_a_rung_that_a_kill_made_run_twice_counts_once(tmp_path: Path, left: int) -> None:
    c = campaign(tmp_path)
    job = c.next_job()
    assert job is not None
    run_trial(c, job, until=left)
    again = campaign(tmp_path)
    assert again.next_job() == job
    for rung in range(left, 3):  # from the last checkpoint, which is one rung behind
        again.arrived(job.number, fields(job, rung))
        assert again.records[0].flops == 10.0 * (rung + 1)
    assert again.records[0].stage_seconds == {"recover": 3.0}


def test_a_reason_to_stop_that_a_kill_forestalled_does_not_stay(tmp_path: Path) -> None:
    c = campaign(tmp_path, trials=60)
    while (job := c.next_job()) is not None:
        if not all(c.arrived(job.number, fields(job, rung)) for rung in range(3)):
            break  # killed here: the record says why it was to stop, and that it runs
        c.finished(job.number)
    assert job is not None
    assert c.records[job.number].reason
    again = campaign(tmp_path, trials=60)
    assert again.next_job() == job
    assert again.records[job.number].reason == ""


def test_more_baselines_change_nobody_who_is_exempt(tmp_path: Path) -> None:
    """A longer search has room for more; who could be stopped would seem exempt."""
    c = campaign(tmp_path, trials=30)
    play(c)
    settings = c.settings.model_copy(update={"trials": 40})
    more = (*BASELINES, Baseline("late", {"size": 0.5, "axis": "width", "temperature": 0.0}))
    grown = Campaign(settings, TOY, c.store, c.study, baselines=more)
    assert [n for n in range(30) if grown.halving.exempt(n)] == [
        n for n in range(30) if c.halving.exempt(n)
    ]
    assert grown.halving.unstopped == c.halving.unstopped


def test_the_front_holds_full_fidelity_only(tmp_path: Path) -> None:
    watch = Watch()
    c = campaign(tmp_path, watch, trials=60)
    play(c)
    states = [record.state for record in c.records.values()]
    assert states.count("stopped") > 10
    assert all(r.state == "complete" and r.fidelity == 1.0 for r in c.front())
    for record in c.records.values():
        if record.state == "stopped":
            assert record.fidelity < 1.0
            assert record.baseline is None
            assert not c.halving.exempt(record.trial)
            assert "of its recovery it was number" in record.reason
    volumes = [progress.hypervolume for progress in watch.progress]
    assert volumes == sorted(volumes)
    assert watch.progress[-1].ended == 60
    assert watch.progress[-1].seconds_left == 0
    for trial in c.study.trials():
        mine = c.records[trial.user_attrs["trial"]]
        if mine.state == "stopped" and trial.values is not None:
            assert trial.user_attrs["fidelity"] == 0.0


def test_early_stopping_can_be_switched_off(tmp_path: Path) -> None:
    c = campaign(tmp_path, trials=40, early_stopping=False)
    play(c)
    assert {record.state for record in c.records.values()} == {"complete"}


@pytest.mark.parametrize("sampler", [n for n, row in SAMPLERS.items() if not row.slow | row.walks])
@pytest.mark.parametrize("left", [None, 0, 1])
def test_a_killed_search_goes_on_as_if_it_had_not_been(
    left: int | None, sampler: str, tmp_path: Path
) -> None:
    """One worker; killed after each trial, or with one left at a rung."""
    whole = campaign(tmp_path / "whole", sampler=sampler)
    play(whole)
    for _ in range(20):
        c = campaign(tmp_path / "cut", sampler=sampler)
        job = c.next_job()
        if job is None:
            break
        run_trial(c, job)
        job = c.next_job()
        if job is not None and left is not None:
            run_trial(c, job, until=left)
        # here the driver is killed: nothing is closed
    assert ended(c) == ended(whole)
    trials = c.study.trials()
    assert len({t.user_attrs["trial"] for t in trials}) == len(trials) == 11
    rebuilt = campaign(tmp_path / "cut", sampler=sampler)
    assert rebuilt.halving.arrivals == whole.halving.arrivals
    assert rebuilt.halving.unstopped == whole.halving.unstopped
    assert rebuilt.rungs() == whole.rungs()


def flipped(job: TrialJob, rung: int) -> dict[str, Any]:
    """Rungs below the end rank trials the wrong way round."""
    found = fields(job, rung)
    for name in ("proxy_kl", "retention"):
        if name in found and rung < 2:
            found[name] = 2 - found[name]
    return found


def test_verdicts_after_a_restore_are_those_without_one(tmp_path: Path) -> None:
    """Also where the rungs have been seen to rank badly, so that their shares have moved."""

    def turn(c: Campaign) -> bool:
        if (job := c.next_job()) is None:
            return False
        for rung in range(3):
            if not c.arrived(job.number, flipped(job, rung)):
                c.stopped(job.number)
                return True
        c.finished(job.number)
        return True

    whole = campaign(tmp_path / "whole", trials=50)
    while turn(whole):
        pass
    cut = campaign(tmp_path / "cut", trials=50)
    while turn(cut):
        if len(cut.records) % 9 == 0:
            cut = campaign(tmp_path / "cut", trials=50)
    assert ended(cut) == ended(whole)
    assert cut.rungs() == whole.rungs()
    late = whole.rungs()[1]
    assert late.trials == len(whole.halving.unstopped) > 6
    assert late.correlation is not None
    assert late.correlation < 0
    assert late.stops < 0.35
    # It learned from trials that nothing could stop, and from no other.
    for number in whole.halving.unstopped:
        record = whole.records[number]
        assert record.baseline is not None or whole.halving.exempt(number)


def test_without_early_stopping_every_trial_tells_what_a_rung_is_worth(tmp_path: Path) -> None:
    c = campaign(tmp_path, trials=20, early_stopping=False)
    play(c)
    assert len(c.halving.unstopped) == 20
    assert [rung.stops for rung in c.rungs()] == [0.0, 0.0]
    found = c.rungs()[1].correlation
    assert found is not None
    assert found > 0.9


def test_what_a_kill_leaves_in_the_study_is_cleared_up(tmp_path: Path) -> None:
    c = campaign(tmp_path)
    for _ in range(5):
        job = c.next_job()
        assert job is not None
        run_trial(c, job)
    c.study.ask(5)  # killed between the proposal and its record
    c.study._study.enqueue_trial({"size": 0.5, "axis": "width", "temperature": 0.1})
    again = campaign(tmp_path)
    play(again)
    again.study.settle(final=True)
    states = [trial.state.name for trial in again.study.trials()]
    assert not {"WAITING", "RUNNING"} & set(states)
    assert states.count("FAIL") == 2


def test_a_lost_journal_is_written_anew_from_the_records(tmp_path: Path) -> None:
    c = campaign(tmp_path)
    play(c)
    c.store.journal.unlink()
    again = campaign(tmp_path, trials=14)
    told = {t.user_attrs["trial"]: t.values for t in again.study.trials() if t.values}
    complete = {n for n, r in again.records.items() if r.state == "complete"} - {1}
    assert complete <= set(told)
    for number in complete:
        assert told[number][1] == again.records[number].retention
    play(again)
    assert len(again.records) == 14


def test_half_a_line_in_the_journal_is_cut(tmp_path: Path) -> None:
    c = campaign(tmp_path)
    play(c)
    with c.store.journal.open("a") as stream:
        stream.write('{"op_code": 4, "work')
    (tmp_path / "searches" / "toy" / "study.journal.lock").symlink_to("nowhere")
    play(campaign(tmp_path, trials=14))


def test_failed_trials_carry_their_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    c = campaign(tmp_path)
    for turn in range(12):
        job = c.next_job()
        assert job is not None
        if turn % 2:
            c.failed(job.number, "out of memory: 640K", "Traceback …")
        else:
            run_trial(c, job)
    assert c.next_job() is None
    assert c.records[3].reason == "out of memory: 640K"
    assert (c.store.directory / "trials" / "0003.error.txt").read_text() == "Traceback …"
    assert all(record.state != "failed" for record in c.front())


def test_gives_up_when_nothing_but_failures_comes(tmp_path: Path) -> None:
    c = campaign(tmp_path, trials=500)
    count = 0
    while (job := c.next_job()) is not None:
        c.failed(job.number, "broken")
        count += 1
    assert count == GIVE_UP


def test_a_trial_without_a_retention_is_failed(tmp_path: Path) -> None:
    c = campaign(tmp_path)
    job = c.next_job()
    assert job is not None
    c.arrived(job.number, {**fields(job, 0), "fidelity": 1.0})
    c.finished(job.number)
    assert c.records[0].state == "failed"


def test_max_hours_counts_earlier_sessions(tmp_path: Path) -> None:
    clock = [0.0]
    c = campaign(tmp_path, max_hours=1.0)
    c._clock = lambda: clock[0]
    c._began = 0.0
    assert c.next_job() is not None
    clock[0] = 3599.0
    assert not c.over()
    c.close()
    later = campaign(tmp_path, max_hours=1.0)
    assert not later.over()
    later._began -= 2.0
    assert later.over()
    assert later.next_job() is not None  # what was begun is finished
    assert later.next_job() is None


def test_patience_ends_a_search_that_no_longer_gains(tmp_path: Path) -> None:
    """The toy's optimum is soon found; a trial is made to take a quarter of an hour."""

    def slow(job: TrialJob, rung: int) -> dict[str, Any]:
        return {**fields(job, rung), "stage_seconds": {"recover": 300.0}}

    def turn(c: Campaign) -> bool:
        if (job := c.next_job()) is None:
            return False
        for rung in range(3):
            if not c.arrived(job.number, slow(job, rung)):
                c.stopped(job.number)
                return True
        c.finished(job.number)
        return True

    watch = Watch()
    asked: dict[str, Any] = {"trials": 200, "patience": 1.0, "workers": 1}
    whole = campaign(tmp_path / "whole", watch, **asked)
    while turn(whole):
        pass
    assert 12 < len(whole.records) < 150
    assert whole.why().startswith("--patience 1: another hour of sampling was expected to add 0.")
    gains = [p.expected_gain for p in watch.progress]
    assert gains[:11] == [None] * 11  # two baselines and nine of the sampler's
    assert gains[-1] is not None
    assert gains[-1] < 0.01 <= min(gain for gain in gains[11:-1] if gain is not None)
    assert watch.progress[-1].confirm_left is not None

    cut = campaign(tmp_path / "cut", **asked)
    while turn(cut):
        if len(cut.records) % 9 == 0:
            cut = campaign(tmp_path / "cut", **asked)
    assert ended(cut) == ended(whole)
    assert cut.why() == whole.why()
    # It stays over when asked again, and goes on when told to.
    assert campaign(tmp_path / "cut", **asked).over()
    assert not campaign(tmp_path / "cut", trials=200, workers=1).over()


def test_a_search_says_why_it_ends(tmp_path: Path) -> None:
    c = campaign(tmp_path)
    assert c.why() == ""
    play(c)
    assert c.why() == "all 12 trials were launched"
