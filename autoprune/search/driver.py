"""A search from its settings to its confirmed front, resumable at any moment."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoprune.errors import AutoPruneError, StoppedError
from autoprune.search.campaign import Campaign
from autoprune.search.candidates.narrow import Narrowed
from autoprune.search.knobs.grid import cells
from autoprune.search.knobs.space import Space, load_space, with_precisions
from autoprune.search.listener import SearchListener
from autoprune.search.preflight import preflight
from autoprune.search.records.stages import Stages
from autoprune.search.records.storage import open_storage
from autoprune.search.records.store import SearchStore, search_dir
from autoprune.search.sampling.samplers import SAMPLERS
from autoprune.search.settings import SearchSettings
from autoprune.search.starts.warm import warm_up
from autoprune.search.study import SearchStudy
from autoprune.search.tracked import Attach, tracked
from autoprune.search.work import Prepared, Problem
from autoprune.search.workers.assets import Parcel, pack
from autoprune.search.workers.failures import ran_out_of_memory
from autoprune.search.workers.pool import WorkerPool
from autoprune.search.workers.session import RaySession, check_address, resources_of
from autoprune.tracking.location import check_tracking, default_uri
from autoprune.tracking.records.summary import SearchSummary


def run_search(
    settings: SearchSettings,
    listener: SearchListener | None = None,
    problem: Problem | None = None,
    *,
    tracking: bool = True,
    attach: Attach | None = None,
) -> SearchSummary:
    """Run a search, or go on with it, and return its confirmed front.

    A search that has finished already answers at once. One that was killed or stopped goes on:
    ended trials are kept, unfinished ones continue from their last rung.

    Args:
        settings: what is asked; ``store.settings()`` of a search that is resumed.
        listener: told of progress.
        problem: what is searched; by default the pipeline of a vision-language model.
        tracking: log to MLflow.
        attach: makes what is to lie beside a finished search in MLflow.

    Raises:
        AutoPruneError: bad input; nothing has been started then.
        StoppedError: stopped by a signal, or every trial failed.
    """
    listener = listener or SearchListener()
    store = SearchStore(search_dir(settings.home, settings.name))
    fresh = not store.exists()
    if fresh and problem is None:
        preflight(settings)
    problem = problem or _pipeline()
    settings = _walked(settings, store, problem)
    if store.summary() is None or _grows(settings, store):
        store.open(settings)
    else:  # only shown: what it was searched with stays written
        store.check_same(settings)
    with store.lock():
        summary = store.summary()
        if summary is not None and not _grows(settings, store):
            listener.on_done(summary)
            return summary
        try:
            check_address(settings.ray_address)
            if tracking:
                check_tracking(settings.tracking_uri or default_uri(settings.home))
            return _run(settings, store, listener, problem, tracking, attach)
        except AutoPruneError as error:
            if fresh and error.exit_code == AutoPruneError.exit_code and not store.records():
                shutil.rmtree(store.directory, ignore_errors=True)
            raise


def _grows(settings: SearchSettings, store: SearchStore) -> bool:
    """Say whether a finished search is asked for more trials than it has."""
    return settings.trials > len(store.records())


def _pipeline() -> Problem:
    from autoprune.search.problem import PipelineProblem

    return PipelineProblem()


def _walked(settings: SearchSettings, store: SearchStore, problem: Problem) -> SearchSettings:
    """Return settings in which a walk has no more trials than there are cells on this model."""
    if not SAMPLERS[settings.sampler].walks:
        return settings
    try:
        most = len(cells(_narrowed(settings, store, problem).space))
    except AutoPruneError:
        if store.exists() and store.summary() is not None:
            return settings  # its front can be shown without its model
        raise
    return settings.model_copy(update={"trials": min(settings.trials, most)})


def _narrowed(settings: SearchSettings, store: SearchStore, problem: Problem) -> Narrowed:
    space = store.space() if store.exists() else load_space(settings.space)
    return problem.narrow(settings, with_precisions(space, settings.precisions))


def _run(
    settings: SearchSettings,
    store: SearchStore,
    listener: SearchListener,
    problem: Problem,
    tracking: bool,
    attach: Attach | None,
) -> SearchSummary:
    narrowed = _narrowed(settings, store, problem)
    space = narrowed.space
    for note in narrowed.notes:
        listener.on_stage(note)
    with _Interrupt(store.typed) as interrupt, RaySession(settings) as session:

        def on_stage(text: str) -> None:
            # The first stage begins when the settings have been found to fit the model.
            session.begin()
            listener.on_stage(text)

        stages = Stages(store, settings.trials)
        if stages.fresh and (expected := problem.forecast(settings, space)) is not None:
            stages.expect(expected.stages)
            listener.on_forecast(expected)
        with stages.stage("prepare"):
            prepared = problem.prepare(settings, space, on_stage)
            session.begin()
            _retry_if_all_failed(store)
            warm = warm_up(settings, space, store, prepared.facts)
            for note in warm.notes:
                listener.on_stage(note)
            store.write("facts.json", json.dumps(dict(prepared.facts), indent=1))
            study = _study(settings, space, store)
            study.describe({**prepared.facts, "fixed": space.complete({})})
            study.learn(warm.told)
        tracking_log = tracked(settings, space, store, prepared, listener, tracking)
        with tracking_log as log, interrupt.bare():
            campaign = Campaign(
                settings,
                space,
                store,
                study,
                baselines=(*prepared.baselines, *warm.first),
                budget=prepared.budget,
                confirm_share=prepared.confirm_share,
                versions=prepared.versions,
                listener=listener,
                on_record=log.record,
            )
            try:
                with stages.stage("prepare"):  # what is left of Ray's start
                    session.ready()
                interrupt.arm()
                store.reopen()
                summary = _search(campaign, prepared, interrupt, listener, stages)
            finally:
                campaign.close()
            log.summary(summary)
            if attach is not None:
                log.attach(attach, store, summary)
        listener.on_done(summary)
        return summary


def _study(settings: SearchSettings, space: Space, store: SearchStore) -> SearchStudy:
    return SearchStudy(
        open_storage(settings.storage, store.journal),
        store.name,
        space.distributions(),
        settings.sampler,
        settings.seed,
        settings.trials,
        settings.counted,
        cells(space) if SAMPLERS[settings.sampler].walks else (),
        floors=bool(settings.floors),
    )


def _search(
    campaign: Campaign,
    prepared: Prepared,
    interrupt: _Interrupt,
    listener: SearchListener,
    stages: Stages,
) -> SearchSummary:
    """Run the trials that are left, then the confirmation."""
    settings, store = campaign.settings, campaign.store
    parcel = pack(prepared.work, prepared.arrays, resources_of(settings), campaign.space.rungs)
    # On our own CPUs the confirmation's workers start while the last trials still run.
    overlap = settings.ray_address is None and settings.gpus_per_trial == 0
    pool = WorkerPool(parcel, settings.workers, overlap)
    try:
        listener.on_stage("trials")
        with stages.stage("trials"):
            _trials(campaign, parcel, interrupt, pool.open if overlap else None)
        _check_any(campaign)
        campaign.study.settle(final=True)
        listener.on_stage("confirm")
        records = [campaign.records[number] for number in sorted(campaign.records)]
        with stages.stage("confirm"):
            summary = prepared.finish(records, pool, store, listener.on_confirm)
    finally:
        pool.close()
    with stages.stage("confirm"):
        summary = prepared.timed(summary, records, listener.on_stage, listener.on_warning)
    changes = {
        "name": store.name,
        "seconds": campaign.seconds(),
        "rungs": campaign.rungs(),
        "ended": campaign.why(),
        "stages": stages.records(),
    }
    summary = summary.model_copy(update=changes)
    store.write_summary(summary)
    return summary


def _trials(
    campaign: Campaign,
    parcel: Parcel,
    interrupt: _Interrupt,
    on_drained: Callable[[], None] | None,
) -> None:
    """Run all trials by Ray Tune."""
    if campaign.over() and not campaign.unfinished:
        return
    from ray import tune

    from autoprune.search.workers.trainable import Trial
    from autoprune.search.workers.tune import CampaignScheduler, CampaignSearcher

    settings = campaign.settings
    ahead = 1 if SAMPLERS[settings.sampler].slow else 0
    trainable = tune.with_resources(
        tune.with_parameters(Trial, parcel=parcel),
        {"cpu": settings.cpus_per_trial, "gpu": settings.gpus_per_trial},
    )
    searcher = CampaignSearcher(campaign, ahead, on_drained)
    with _scratch(campaign.store, settings.ray_address) as storage:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=CampaignScheduler(searcher, interrupt.check),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"trial-{trial.config['number']:04d}",
                trial_dirname_creator=lambda trial: f"trial-{trial.config['number']:04d}",
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=storage,
                verbose=0,
                # Workers answer errors; only a lost worker counts here, and is given a second.
                failure_config=tune.FailureConfig(max_failures=1),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        try:
            with interrupt.between_events():
                tuner.fit()
        except Exception as error:
            # A worker that is killed while it starts ends Tune itself.
            if not ran_out_of_memory(error):
                raise
            raise StoppedError(
                f"the machine ran out of memory while workers started: end other programs or use "
                f"fewer --workers than {settings.workers}; 'autoprune search --resume "
                f"{campaign.store.typed}' goes on"
            ) from error


@contextmanager
def _scratch(store: SearchStore, ray_address: str | None) -> Iterator[str]:
    """Give Ray Tune a directory for its own state, which nobody reads again.

    On a joined cluster it must lie where the search does, since other machines look for it.
    """
    if ray_address is not None:
        path = store.directory / "ray"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    else:
        path = Path(tempfile.mkdtemp(prefix="autoprune-tune-"))
    try:
        yield str(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _retry_if_all_failed(store: SearchStore) -> None:
    """Forget the failed trials of a search in which nothing else is: their cause was mended."""
    records = store.records()
    if records and all(record.state == "failed" for record in records.values()):
        for number in records:
            store.forget(number)


def _check_any(campaign: Campaign) -> None:
    records = campaign.records.values()
    if any(record.state == "complete" for record in records):
        return
    failed = [record for record in records if record.state == "failed"]
    if not failed:
        raise StoppedError(
            f"search {campaign.store.name!r} ended before a trial did: give it more --max-hours "
            f"('autoprune search --resume {campaign.store.typed}' goes on)"
        )
    reasons = sorted({record.reason for record in failed}, key=len)
    raise StoppedError(
        f"all {len(failed)} trials of search {campaign.store.name!r} failed, e.g. "
        f"{failed[0].name}: {reasons[0]} (tracebacks in {campaign.store.directory / 'trials'}; "
        f"'autoprune search --resume {campaign.store.typed}' tries again)"
    )


class _Interrupt:
    """Turns the first SIGINT or SIGTERM into a clean end; the second ends at once.

    While Ray Tune runs, ``check`` raises between two events, where nothing is half done.
    Elsewhere the signal raises at once, too.
    """

    def __init__(self, typed: str) -> None:
        self._typed = typed
        self._told = False
        self._inside = False
        self._before: dict[int, Any] = {}

    def check(self) -> None:
        """Raise when told to stop."""
        if self._told:
            raise _Stop

    @contextmanager
    def between_events(self) -> Iterator[None]:
        """Within, a signal waits for the next ``check``."""
        self._inside = True
        try:
            yield
        finally:
            self._inside = False
        self.check()

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Within, a stop stays one: Ray's calls raise it as the cause of a ``SystemError``."""
        try:
            yield
        except SystemError as error:
            if isinstance(error.__cause__, _Stop):
                raise error.__cause__ from None
            raise

    def _handle(self, number: int, frame: Any) -> None:
        if self._told or not self._inside:
            raise _Stop
        self._told = True

    def arm(self) -> None:
        """Take the signals; again after Ray's start, which takes SIGTERM for itself."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.signal(number, self._handle)
                self._before.setdefault(number, before)

    def __enter__(self) -> _Interrupt:
        self.arm()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        stops = (_Stop, KeyboardInterrupt)
        if isinstance(error, stops) or isinstance(getattr(error, "__cause__", None), stops):
            raise StoppedError(
                f"stopped; 'autoprune search --resume {self._typed}' goes on"
            ) from None


class _Stop(BaseException):
    """Passes through every ``except Exception`` of the libraries between."""
