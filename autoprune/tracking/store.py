"""One search in MLflow: a parent run, a child run a trial, found again and never doubled.

Every method may be called again with the same data and changes nothing then. All of it runs
in the writer's own process (`autoprune.tracking.writer`), which is the only place that imports
MLflow while a search is on.
"""

from __future__ import annotations

import getpass
import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autoprune.tracking import naming
from autoprune.tracking.location import without_credentials
from autoprune.tracking.records.base import trial_name
from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.summary import LoggedSearch, SearchInfo, SearchSummary
from autoprune.tracking.records.trial import TrialRecord

PARENT_TAG = "mlflow.parentRunId"
EXPERIMENT_NOTE = """Searches for smaller vision-language models, by AutoPrune.

A run named as a search holds its front: a table, plots, and what it took. Its child runs are its
trials. `retention` is the share of the original's ability that is kept (1 is all of it, 0 is
guessing), as the search measured it; `retention_confirmed` is that of the front's members, over
several seeds and on other images. `size/` holds sizes of the whole model, `work/` seconds and
floating-point operations, `knob/` what was chosen.

    autoprune ui NAME                     addresses that open on a search's trials and its front
    autoprune export NAME:TRIAL -o DIR    a trial as a checkpoint
    autoprune register DIR --name MODEL   a checkpoint in the model registry
"""
BATCH = 100  # parameters or tags that MLflow takes in one call


def quiet_environment() -> None:
    """Set what keeps MLflow silent and quick to give up, before it is imported.

    What the user has set stays.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


class MlflowStore:
    """The runs of one search.

    `open` finds or makes the experiment and the parent run; then `log_trial` as often as a
    trial has news, `log_summary` when the front has, and `close` at the end.

    Raises from every method whatever MLflow raises when it cannot be reached.
    """

    def __init__(
        self, uri: str, info: SearchInfo, *, artifacts: str | None, experiment: str, writer: str
    ) -> None:
        quiet_environment()
        from mlflow import MlflowClient

        quiet_environment()  # MLflow sets its own level on import
        self.client: Any = MlflowClient(uri)
        self.uri = uri
        self.info = info
        self.artifacts = artifacts
        self.experiment_name = experiment
        self.writer = writer
        self.experiment_id = ""
        self.parent = ""
        self.runs: dict[int, str] = {}
        self._hashes: dict[int, str] = {}
        self._params: dict[str, dict[str, str]] = {}
        self._rungs: dict[int, set[int]] = {}  # steps logged, a trial
        self._points: dict[int, FrontPoint] = {}  # as last marked
        self._open: set[int] = set()  # trials whose run stands as RUNNING

    def open(self) -> None:
        """Find the search's runs, or make the parent run; the parent is RUNNING after this."""
        self.experiment_id = self._find_experiment()
        parent = self._find_parent()
        tags = {**naming.search_tags(self.info), naming.WRITER_TAG: self.writer}
        if parent is None:
            tags |= source_tags()
            run = self.client.create_run(self.experiment_id, run_name=self.info.name, tags=tags)
            self.parent = run.info.run_id
        else:
            self.parent = parent.info.run_id
            self._params[self.parent] = dict(parent.data.params)
            self._log(self.parent, tags=tags)
            if parent.info.status != "RUNNING":
                self.client.update_run(self.parent, status="RUNNING")
            self._find_children()
        self._log(self.parent, params=naming.search_params(self.info))
        for name, text in self.info.files.items():
            self.client.log_text(self.parent, text, f"config/{name}")

    def place(self, views: Mapping[str, str]) -> LoggedSearch:
        """Return where this search is found."""
        return LoggedSearch(
            uri=without_credentials(self.uri),
            experiment_id=self.experiment_id,
            parent_run_id=self.parent,
            views=dict(views),
            runs=dict(self.runs),
        )

    def log_trial(self, record: TrialRecord) -> None:
        """Bring a trial's run up to its record; makes the run at the first call."""
        digest = naming.record_hash(record)
        if self._hashes.get(record.trial) == digest:
            return
        status = naming.STATUS[record.state]
        run_id = self.runs.get(record.trial) or self._new_child(record)
        self._log(
            run_id,
            params=naming.trial_params(record),
            metrics=naming.trial_metrics(record),
            tags=naming.trial_tags(record),
            step=record.rung,
            history=self._new_history(record),
        )
        if status != "RUNNING":
            self.client.set_terminated(run_id, status)
            self._open.discard(record.trial)
        elif record.trial not in self._open:
            self.client.update_run(run_id, status=status)
            self._open.add(record.trial)
        self._hashes[record.trial] = digest

    def log_points(self, summary: SearchSummary) -> None:
        """Mark the runs of confirmed trials, and take the mark from those that lost it."""
        marked: set[int] = set()
        for point in (*summary.points, *summary.baselines):
            marked.add(point.trial)
            self._mark(point)
        filter_string = f"tags.`{PARENT_TAG}` = '{self.parent}' and tags.front = 'yes'"
        for run in self._search(filter_string):
            if int(run.data.tags.get(naming.TRIAL_TAG, -1)) not in marked:
                self.client.set_tag(run.info.run_id, "front", "no")
                self._points.pop(int(run.data.tags.get(naming.TRIAL_TAG, -1)), None)

    def log_summary(self, summary: SearchSummary, records: list[TrialRecord]) -> None:
        """Bring the parent's figures and description up to a summary."""
        from autoprune.tracking.report import markdown

        self._log(
            self.parent,
            metrics=naming.summary_metrics(summary, records),
            tags={
                "mlflow.note.content": markdown(summary),
                "mlflow.loggedArtifacts": '[{"path": "front/front.json", "type": "table"}]',
            },
        )

    def log_files(self, folder: Path) -> None:
        """Put a folder's files beside the parent run, over those of the same name."""
        self.client.log_artifacts(self.parent, str(folder))

    def log_text(self, path: str, text: str) -> None:
        """Put a text beside the parent run, over what stood at its path."""
        self.client.log_text(self.parent, text, path)

    def set_view(self, key: str, state: str) -> None:
        """Save a view of the UI under a share key, as the UI's own 'Share' does."""
        self.client.set_experiment_tag(self.experiment_id, f"mlflow.sharedViewState.{key}", state)

    def settle(self, live: Iterable[int], reason: str) -> None:
        """End every child run that stands as RUNNING and whose trial is not alive."""
        for trial in sorted(self._open - set(live)):
            run_id = self.runs[trial]
            self._log(run_id, tags={"state": "stopped", "reason": reason, naming.RECORD_TAG: ""})
            self.client.set_terminated(run_id, "KILLED")
            self._open.discard(trial)
            self._hashes.pop(trial, None)

    def is_mine(self) -> bool:
        """Whether no later writer has taken this search over."""
        tags = self.client.get_run(self.parent).data.tags
        return tags.get(naming.WRITER_TAG) == self.writer

    def close(self, state: str, reason: str = "") -> None:
        """End the parent run as complete, stopped or failed."""
        self._log(self.parent, tags={"state": state, "reason": reason})
        self.client.set_terminated(self.parent, naming.STATUS[state])

    def _find_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.experiment_name)
        if found is None:
            try:
                return self.client.create_experiment(
                    self.experiment_name,
                    artifact_location=self.artifacts,
                    tags={
                        "mlflow.experimentKind": "custom_model_development",
                        "mlflow.note.content": EXPERIMENT_NOTE,
                    },
                )
            except MlflowException:
                found = self.client.get_experiment_by_name(self.experiment_name)
                if found is None:  # not a race: let the caller see what it was
                    raise
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _find_parent(self) -> Any:
        key = self.info.key.replace("'", "")
        return next(iter(self._search(f"tags.`{naming.KEY_TAG}` = '{key}'")), None)

    def _find_children(self) -> None:
        for run in self._search(f"tags.`{PARENT_TAG}` = '{self.parent}'"):
            tag = run.data.tags.get(naming.TRIAL_TAG, "")
            if not tag.isdigit():
                continue
            trial, run_id = int(tag), run.info.run_id
            self.runs[trial] = run_id
            self._params[run_id] = dict(run.data.params)
            if digest := run.data.tags.get(naming.RECORD_TAG):
                self._hashes[trial] = digest
            if run.info.status == "RUNNING":
                self._open.add(trial)

    def _search(self, filter_string: str) -> Iterable[Any]:
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                filter_string,
                order_by=["attributes.start_time ASC"],
                max_results=1000,
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def _new_child(self, record: TrialRecord) -> str:
        now = time.time()
        spent = sum(record.stage_seconds.values())  # before it was heard of
        run = self.client.create_run(
            self.experiment_id,
            start_time=int((now - spent) * 1000),
            run_name=trial_name(record.trial),
            tags={
                PARENT_TAG: self.parent,
                naming.TRIAL_TAG: str(record.trial),
                "search": self.info.name,
                "kind": "trial",
                **source_tags(),
            },
        )
        self.runs[record.trial] = run.info.run_id
        self._open.add(record.trial)
        return run.info.run_id

    def _new_history(self, record: TrialRecord) -> list[tuple[str, float, int]]:
        """What earlier rungs measured and was not logged then (a rung may come and go unseen)."""
        known = self._rungs.setdefault(record.trial, set())
        new = [
            item
            for item in naming.trial_history(record)
            if item[2] < record.rung and item[2] not in known
        ]
        known |= {step for _, _, step in new} | {record.rung}
        return new

    def _mark(self, point: FrontPoint) -> None:
        run_id = self.runs.get(point.trial)
        if run_id is not None and self._points.get(point.trial) != point:
            self._log(run_id, metrics=naming.point_metrics(point), tags=naming.point_tags(point))
            self._points[point.trial] = point

    def _log(
        self,
        run_id: str,
        *,
        params: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
        history: Iterable[tuple[str, float, int]] = (),
    ) -> None:
        """One call where it all fits; parameters that stand already are left as they are."""
        from mlflow.entities import Metric, Param, RunTag

        known = self._params.setdefault(run_id, {})
        new = [(name, value) for name, value in (params or {}).items() if name not in known]
        now = int(time.time() * 1000)
        all_metrics = [Metric(name, value, now, at) for name, value, at in history]
        all_metrics += [Metric(name, value, now, step) for name, value in (metrics or {}).items()]
        all_tags = [RunTag(name, value) for name, value in (tags or {}).items()]
        while new or all_metrics or all_tags:
            batch, new = new[:BATCH], new[BATCH:]
            some_metrics, all_metrics = all_metrics[: 8 * BATCH], all_metrics[8 * BATCH :]
            some_tags, all_tags = all_tags[:BATCH], all_tags[BATCH:]
            self.client.log_batch(
                run_id,
                metrics=some_metrics,
                params=[Param(name, value) for name, value in batch],
                tags=some_tags,
            )
            known.update(batch)


def source_tags(command: str = "autoprune search") -> dict[str, str]:
    """Return the tags that say who made a run, and by which command."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return {
        "mlflow.user": user,
        "mlflow.source.name": command,
        "mlflow.source.type": "LOCAL",
    }
