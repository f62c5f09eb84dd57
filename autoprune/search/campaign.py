"""The state of a search on its driver: what runs next, what has happened, what it means.

Knows nothing of Ray. Ray Tune's searcher and scheduler are thin adapters over one
:class:`Campaign`; so a search can be followed in a plain Python test.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autoprune.pruning.layout import Layout
from autoprune.search.fidelity.correlation import Unstopped
from autoprune.search.fidelity.halving import Halving
from autoprune.search.fidelity.rungs import arrival_of, rung_records, rung_values, with_rung
from autoprune.search.fronts.front import hypervolume, nondominated
from autoprune.search.knobs.space import Space
from autoprune.search.listener import Progress, SearchListener
from autoprune.search.outlook import (
    confirmation_seconds,
    evaluations,
    sampled_gains,
    seconds_a_trial,
    trials_left,
)
from autoprune.search.patience import POINT, exhausted, expected_gain
from autoprune.search.records.store import SearchStore
from autoprune.search.sampling.refine import REFINE, choose_parent, refined_trials
from autoprune.search.sampling.samplers import SAMPLERS
from autoprune.search.sampling.slide import SLIDE, due, slid
from autoprune.search.settings import SearchSettings
from autoprune.search.study import SearchStudy
from autoprune.search.work import Baseline, Refinement, TrialJob
from autoprune.tracking.records.costs import point_of, share_in
from autoprune.tracking.records.summary import RungRecord
from autoprune.tracking.records.terms import Budget
from autoprune.tracking.records.trial import SAMPLED, TrialRecord

GIVE_UP = 10
"""So many failed trials and none that did not: the search ends."""


class Campaign:
    """One session of a search.

    Call :meth:`next_job` for work; then :meth:`arrived` at each rung (it answers whether to go
    on), and at last one of :meth:`finished`, :meth:`stopped`, :meth:`failed`.

    Args:
        settings, space, baselines, versions: of the search.
        budget: the bound on sizes; what is over it comes last.
        store: its directory; must be locked.
        study: its Optuna study.
        listener: told of every change.
        on_record: called with every change of a trial's record (MLflow logging).
        clock: seconds; for tests.
    """

    def __init__(
        self,
        settings: SearchSettings,
        space: Space,
        store: SearchStore,
        study: SearchStudy,
        *,
        baselines: Sequence[Baseline] = (),
        budget: Budget | None = None,
        confirm_share: float = 1.0,
        versions: Mapping[str, str] | None = None,
        listener: SearchListener | None = None,
        on_record: Callable[[TrialRecord], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings, self.space, self.store, self.study = settings, space, store, study
        self.baselines, self.budget = tuple(baselines), budget
        self._confirm_share = confirm_share
        self.listener = listener or SearchListener()
        self.records: dict[int, TrialRecord] = store.records()
        self.halving = Halving(seed=settings.seed, first=self._first())
        self.live: set[int] = set()
        self._versions = dict(versions or {})
        self._on_record = on_record
        self._clock = clock
        self._began = clock()
        self._before = store.seconds()
        self._again = [n for n, r in sorted(self.records.items()) if r.state == "running"]
        self._rebuild()

    # ---- what runs next

    def next_job(self) -> TrialJob | None:
        """Return the next trial to launch, or None when no more are to be launched.

        First the trials that an earlier session left unfinished, then the baselines, then what
        the sampler proposes, and in the last part what lies near the front. Its record is written
        before it is returned.
        """
        if self._again:
            number = self._again.pop(0)
            # A verdict that a kill forestalled is given again, and may be another.
            return self._launch(self.records[number].model_copy(update={"reason": ""}))
        if self.over():
            return None
        number = max(self.records, default=-1) + 1
        tried = Counter(record.origin for record in self.records.values())
        for baseline in self.baselines:  # names can repeat: all warm points are called so
            tried[baseline.name] -= 1
            if tried[baseline.name] < 0:
                knobs = self.space.complete(baseline.knobs)
                self.study.enqueue(number, knobs, baseline.name)
                return self._launch(self._new(number, knobs, baseline.name))
        if self.refining() and (parent := self._parent()) is not None:
            refined = self._new(number, parent.knobs, REFINE)
            return self._launch(refined.model_copy(update={"parent": parent.trial}))
        return self._launch(self._propose(number, sum(tried[origin] for origin in SAMPLED)))

    def _propose(self, number: int, before: int) -> TrialRecord:
        """Return what the sampler proposes behind ``before`` proposals."""
        if SAMPLERS[self.settings.sampler].slides and due(before):
            found = slid(self.front(), self.records.values(), self.space, self.study.holds)
            if found is not None:
                parent, knobs = found
                self.study.enqueue(number, knobs, SLIDE)
                return self._new(number, knobs, SLIDE).model_copy(update={"parent": parent})
        return self._new(number, self.space.complete(self.study.ask(number)), "sampler")

    def refining(self) -> bool:
        """Say whether the last part has begun: of the trials, of the time, or of what pays."""
        settings = self.settings
        share, hours = settings.refine, settings.max_hours
        if not share:
            return False
        if settings.trials - len(self.records) <= refined_trials(settings.trials, share):
            return True
        late = hours is not None and self.seconds() >= 3600 * hours * (1 - share)
        return late or self.exhausted()

    def _refined(self) -> bool:
        """Say whether refinement has had its share of the trials launched so far."""
        refined = sum(record.origin == REFINE for record in self.records.values())
        return refined >= refined_trials(len(self.records), self.settings.refine)

    def _parent(self) -> TrialRecord | None:
        front = self.front()
        return choose_parent(front, [self._point(r) for r in front], self.records.values())

    @property
    def unfinished(self) -> bool:
        """Whether trials of an earlier session are still to be launched."""
        return bool(self._again)

    def over(self) -> bool:
        """Say whether no new trial is to be launched."""
        return bool(self.why())

    def why(self) -> str:
        """Return why no new trial is to be launched, or nothing where one is."""
        settings = self.settings
        if len(self.records) >= settings.trials:
            return f"all {settings.trials} trials were launched"
        if settings.max_hours is not None and self.seconds() >= 3600 * settings.max_hours:
            return f"--max-hours {settings.max_hours:g} are over"
        states = [record.state for record in self.records.values()]
        if states.count("failed") >= GIVE_UP and not {"complete", "stopped"} & set(states):
            return f"{states.count('failed')} trials failed, and none did not"
        if self.exhausted() and self._refined():
            return (
                f"--patience {settings.patience:g}: another hour of sampling was expected to add "
                f"{(self.expected_gain() or 0.0) / POINT:.2g} points of hypervolume"
            )
        return ""

    def exhausted(self) -> bool:
        """Say whether sampling is no longer worth its time, by ``--patience``."""
        patience = self.settings.patience
        return patience is not None and exhausted(self.expected_gain(), patience)

    def expected_gain(self) -> float | None:
        """Return the hypervolume that another hour of sampling is expected to add."""
        records = self.records.values()
        seconds = seconds_a_trial(records, self.settings.workers)
        return expected_gain(sampled_gains(records, self.settings.counted), seconds)

    def _new(self, number: int, knobs: Mapping[str, Any], origin: str) -> TrialRecord:
        return TrialRecord(
            trial=number,
            state="running",
            origin=origin,
            knobs=dict(knobs),
            seed=self.settings.seed,
            versions=self._versions,
        )

    def _launch(self, record: TrialRecord) -> TrialJob:
        self._write(record)
        self.live.add(record.trial)
        self.listener.on_trial(record)
        return TrialJob(record.trial, record.given, record.seed, self.refinement(record.trial))

    def refinement(self, number: int) -> Refinement | None:
        """Return where a refined trial starts, and the layout that it was found to have, if any."""
        record = self.records[number]
        if record.origin != REFINE or record.parent is None:
            return None
        parent = self.records[record.parent]
        start, layout = parent.layout, record.layout
        return Refinement(
            start=None if start is None else Layout.from_dict(start),
            layout=None if layout is None else Layout.from_dict(layout),
            plan=parent.plan,
        )

    # ---- what happens

    def arrived(self, number: int, fields: Mapping[str, Any]) -> bool:
        """Take in a rung's result; return whether the trial goes on.

        Args:
            number: of the trial.
            fields: those of ``TrialRecord`` that the rung has filled.
        """
        record = with_rung(self.records[number], fields)
        self._write(record)
        self.listener.on_trial(record)
        arrival = arrival_of(record, record.rung, self.settings.counted, self.budget)
        if arrival is None or record.fidelity >= 1.0:
            return True
        verdict = self.halving.judge(record.rung, arrival, record.baseline is not None)
        if verdict.stop and self.settings.early_stopping:
            share = self.space.rungs[record.rung]
            self._write(
                record.model_copy(
                    update={
                        "reason": f"at {share:.0%} of its recovery it was number "
                        f"{verdict.place + 1} of {verdict.among}"
                    }
                )
            )
            return False
        return True

    def finished(self, number: int) -> None:
        """Take in that a trial has spent all of its recovery."""
        record = self.records[number]
        size, retention = self._size(record), record.retention
        if size is None or retention is None:
            return self.failed(number, "it ended without a retention")
        record = self._end(record, "complete")
        self._learn(record)
        self.study.complete(
            number,
            size,
            retention,
            rung_values(record),
            record.violation,
            latency=record.latency_fraction,
        )
        return self._ended(record)

    def stopped(self, number: int) -> None:
        """Take in that a trial was stopped before its end."""
        record = self._end(self.records[number], "stopped")
        values, size = rung_values(record), self._size(record)
        if size is not None and record.rung in values:
            self.study.stop(
                number,
                size,
                record.rung,
                values[record.rung],
                record.violation,
                latency=record.latency_fraction,
            )
        return self._ended(record)

    def failed(self, number: int, reason: str, trace: str = "") -> None:
        """Take in that a trial raised, ran out of memory, lost its worker or gave no number."""
        if trace:
            self.store.write_error(number, trace)
        record = self.records[number].model_copy(update={"reason": reason})
        record = self._end(record, "failed")
        self.study.fail(number, reason)
        return self._ended(record)

    def close(self) -> None:
        """Write down the time spent; call at the end of the session, however it ends."""
        self.store.write_seconds(self.seconds())

    # ---- what it means

    def front(self) -> list[TrialRecord]:
        """Return the unconfirmed front: complete trials that meet the floors, smallest first.

        While none meets them, the front of all complete ones.
        """
        full = self._meeting() or self._full()
        return [full[i] for i in nondominated([self._point(r) for r in full])]

    def seconds(self) -> float:
        """Return the time spent by all sessions."""
        return self._before + self._clock() - self._began

    def rungs(self) -> tuple[RungRecord, ...]:
        """Return how well each rung but the last ranked trials as their end did."""
        return rung_records(self.halving, self.space.rungs, self.settings.early_stopping)

    def progress(self) -> Progress:
        """Return where the search stands."""
        states = [record.state for record in self.records.values()]
        left, hours = trials_left(self.records.values(), self.settings), self.settings.max_hours
        if left is not None and hours is not None:
            left = min(left, max(0.0, 3600 * hours - self.seconds()))
        scored = evaluations(self.space.rungs, self.settings.rung_share)
        confirm = confirmation_seconds(
            self.records.values(), self.front(), self.settings, scored, self._confirm_share
        )
        return Progress(
            trials=self.settings.trials,
            complete=states.count("complete"),
            stopped=states.count("stopped"),
            failed=states.count("failed"),
            running=len(self.live),
            hypervolume=hypervolume([self._point(r) for r in self._meeting()]),
            seconds=self.seconds(),
            seconds_left=left,
            confirm_left=confirm or None,
            expected_gain=self.expected_gain(),
        )

    # ---- inside

    def _first(self) -> int:
        """Return the number of the first trial behind the baselines that the search began with.

        More trials may bring more baselines; who is exempt stays as it was.
        """
        sampled = (n for n, r in sorted(self.records.items()) if r.origin in (*SAMPLED, REFINE))
        return next(sampled, len(self.baselines))

    def _full(self) -> list[TrialRecord]:
        return [
            record
            for record in self.records.values()
            if record.state == "complete" and record.fidelity >= 1.0
        ]

    def _meeting(self) -> list[TrialRecord]:
        """Return the complete trials that meet the floors."""
        return [record for record in self._full() if not record.violation]

    def _end(self, record: TrialRecord, state: str) -> TrialRecord:
        record = record.model_copy(update={"state": state})
        self._write(record)
        self.store.drop_rung(record.trial)
        self.live.discard(record.trial)
        return record

    def _ended(self, record: TrialRecord) -> None:
        self.listener.on_trial(record)
        self.listener.on_front(self.front(), self.progress())

    def _write(self, record: TrialRecord) -> None:
        self.records[record.trial] = record
        self.store.write_record(record)
        if self._on_record is not None:
            self._on_record(record)

    def _size(self, record: TrialRecord) -> float | None:
        return share_in(record, self.settings.objective)

    def _point(self, record: TrialRecord) -> tuple[float, ...]:
        return point_of(record, self.settings.counted)

    def _learn(self, record: TrialRecord) -> None:
        """Let halving learn from a complete trial what its rungs were worth.

        Only from one that nothing could stop: a baseline, an exempt one, or any where early
        stopping is off.
        """
        size, retention = self._size(record), record.retention
        free = record.baseline is not None or self.halving.exempt(record.trial)
        if size is None or retention is None or (self.settings.early_stopping and not free):
            return
        self.halving.end(Unstopped(record.trial, size, rung_values(record), retention))

    def _rebuild(self) -> None:
        """Fill halving, predictor and study from the records of earlier sessions."""
        for record in self.records.values():
            if record.state == "complete":
                self._learn(record)
            for rung in range(len(self.space.rungs) - 1):
                arrival = arrival_of(record, rung, self.settings.counted, self.budget)
                if arrival is not None:
                    self.halving.record(rung, arrival)
        self.study.reconcile(
            self.records, {number: rung_values(r) for number, r in self.records.items()}
        )
