"""The model registry: exported checkpoints as versions of a registered model, with an alias.

A version is an MLflow logged model whose artifacts are the checkpoint's own files, as they are, so
that what ``models:/NAME@champion`` downloads is a Hugging Face checkpoint. It hangs on the run of
its trial and on that of its search, where the tracking store has them.

MLflow keeps a copy of its own: a version must not change because a directory was edited. That is
one copy, made straight from the directory; the same content under a second name, or registered
again, shares it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from autoprune.errors import AutoPruneError
from autoprune.tracking import naming
from autoprune.tracking.exported import Exported, read_exported
from autoprune.tracking.flavour import write_flavour
from autoprune.tracking.location import (
    artifact_root,
    check_tracking,
    hidden_password,
    sqlite_path,
    without_credentials,
)
from autoprune.tracking.model_names import CHAMPION, check_alias, check_name
from autoprune.tracking.store import PARENT_TAG, quiet_environment, source_tags
from autoprune.tracking.tracker import EXPERIMENT

VERSIONS_TAG = "mlflow.modelVersions"  # by which the UI knows a logged model as registered
CONTENT_TAG = "autoprune.content"  # hash of a checkpoint's files: nothing is registered twice
PARENT_RUN_TAG = "autoprune.parent_run"
MODEL_TYPE = "vision-language model"
UPLOAD_SECONDS = "600"  # that a server may take to answer while it stores a large file


@dataclass(frozen=True)
class Registered:
    """A version of a registered model.

    Attributes:
        name: of the registered model.
        version: its number.
        uri: ``models:/NAME@ALIAS``, which MLflow resolves.
        alias: that points to it now.
        model_id: of the logged model that holds the files.
        run_id: run of its trial, or one made for it where the store has none.
        linked: whether that is the run that the search made.
        existed: whether this content was this very version already.
        copied: bytes that were copied into MLflow's store; 0 where it had them.
        moved_from: version that the alias pointed to before, where it was another.
    """

    name: str
    version: int
    uri: str
    alias: str
    model_id: str
    run_id: str
    linked: bool
    existed: bool
    copied: int
    moved_from: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``register --json`` prints."""
        return asdict(self)


def register(
    tracking_uri: str,
    directory: str | Path,
    name: str,
    *,
    alias: str = CHAMPION,
    tags: Mapping[str, str] | None = None,
    home: Path | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
) -> Registered:
    """Make an exported checkpoint a version of a registered model, and point an alias to it.

    The same content is registered once: again under the same name it only gets the alias, under
    another name a version that shares the files.

    Args:
        tracking_uri: a database or a server that MLflow keeps runs and models in.
        directory: a checkpoint that ``autoprune export`` wrote.
        name: of the registered model; made where it is new.
        alias: that points to the version from now on.
        tags: more tags for the version.
        home: directory for artifacts, where the store is a database without an experiment of
            AutoPrune's yet; by default the directory of a sqlite file.
        on_stage: told what begins, once nothing typed is in the way.

    Raises:
        AutoPruneError: the directory is no such checkpoint, a name is not allowed, or the store
            cannot be reached or does not take it. Nothing is left behind then.
    """
    check_name(name)
    check_alias(alias)
    exported = read_exported(Path(directory))
    check_tracking(tracking_uri)
    on_stage("hand the checkpoint to MLflow")
    # More than a search's writer has: a server answers an upload when the file is stored.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", UPLOAD_SECONDS)
    quiet_environment()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    quiet_environment()
    with _global_uri(tracking_uri):
        try:
            registry = _Registry(MlflowClient(tracking_uri), tracking_uri, home)
            return registry.register(exported, name, alias, dict(tags or {}))
        except MlflowException as error:
            raise AutoPruneError(
                f"{hidden_password(tracking_uri)} does not take the model "
                f"({_first_line(error)}): check that it is an MLflow of version 3 that you may "
                "write to"
            ) from error


class _Registry:
    """One store's runs and models, through MLflow's client."""

    def __init__(self, client: Any, uri: str, home: Path | None) -> None:
        self.client, self.uri, self.home = client, uri, home

    def register(
        self, exported: Exported, name: str, alias: str, tags: dict[str, str]
    ) -> Registered:
        version = self._same_version(name, exported.content)
        copied, existed = 0, version is not None
        if version is None:
            model = self._same_model(exported.content)
            if model is None:
                model, copied = self._log(exported), exported.nbytes
            version = self._version(exported, model, name, tags)
        elif tags:
            for key, value in tags.items():
                self.client.set_model_version_tag(name, version.version, key, value)
        before = self._aliased(name, alias)
        self.client.set_registered_model_alias(name, alias, version.version)
        number = int(version.version)
        run = self.client.get_run(version.run_id)
        return Registered(
            name=name,
            version=number,
            uri=f"models:/{name}@{alias}",
            alias=alias,
            model_id=version.source.removeprefix("models:/"),
            run_id=version.run_id,
            linked=PARENT_TAG in run.data.tags,
            existed=existed,
            copied=copied,
            moved_from=before if before not in (None, number) else None,
        )

    def _same_version(self, name: str, content: str) -> Any:
        wanted = f"name = '{name}' and tags.`{CONTENT_TAG}` = '{content}'"
        return next(iter(self.client.search_model_versions(wanted)), None)

    def _same_model(self, content: str) -> Any:
        """Return a logged model of the same content, whichever name it was registered under."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return None
        found = self.client.search_logged_models(
            [experiment.experiment_id], f"tags.`{CONTENT_TAG}` = '{content}'"
        )
        return next((model for model in found if str(model.status) == "READY"), None)

    def _aliased(self, name: str, alias: str) -> int | None:
        from mlflow.exceptions import MlflowException

        try:
            return int(self.client.get_model_version_by_alias(name, alias).version)
        except MlflowException:
            return None

    def _log(self, exported: Exported) -> Any:
        """Copy the files into the store as a logged model of the trial's run."""
        from mlflow.entities import LoggedModelOutput

        run, parent = self._runs(exported)
        if parent:
            self._check_place(run.info.experiment_id)
        model = self.client.create_logged_model(
            run.info.experiment_id,
            name=exported.name,
            source_run_id=run.info.run_id,
            tags={
                **exported.tags,
                CONTENT_TAG: exported.content,
                PARENT_RUN_TAG: parent,
                "mlflow.note.content": exported.description,
                **source_tags("autoprune register"),
            },
            params=dict(exported.params),
            model_type=MODEL_TYPE,
        )
        try:
            self._upload(exported, model)
            self._log_metrics(exported, run.info.run_id, model.model_id)
            for run_id in filter(None, (run.info.run_id, parent)):
                self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
            return self.client.finalize_logged_model(model.model_id, "READY")
        except BaseException:
            self._discard(model)
            raise

    def _check_place(self, experiment_id: str) -> None:
        """Refuse a folder of artifacts that is gone: MLflow would make it anew where it was."""
        place = self.client.get_experiment(experiment_id).artifact_location
        root = _folder(place)
        if root is not None and not root.is_dir():
            raise AutoPruneError(
                f"{hidden_password(self.uri)} keeps its files in {root}, which is not there: move "
                "its directory back to where it was, or link it there"
            )

    def _upload(self, exported: Exported, model: Any) -> None:
        # File by file from where they stand, so that nothing large is staged.
        for file in exported.files:
            folder = None if file.parent == Path() else file.parent.as_posix()
            self.client.log_model_artifact(model.model_id, str(exported.directory / file), folder)
        with tempfile.TemporaryDirectory(prefix="autoprune-") as scratch:
            write_flavour(Path(scratch), exported, model.model_id, model.source_run_id)
            self.client.log_model_artifacts(model.model_id, scratch)

    def _log_metrics(self, exported: Exported, run_id: str, model_id: str) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, 0, model_id=model_id)
            for name, value in exported.metrics.items()
        ]
        self.client.log_batch(run_id, metrics=metrics)

    def _discard(self, model: Any) -> None:
        """Take back what a failed registration left."""
        with contextlib.suppress(Exception):
            self.client.finalize_logged_model(model.model_id, "FAILED")
            self.client.delete_logged_model(model.model_id)
        if (folder := _folder(model.artifact_location)) is not None:
            shutil.rmtree(folder.parent, ignore_errors=True)

    def _runs(self, exported: Exported) -> tuple[Any, str]:
        """Return the run of the trial, and the id of its search's run or nothing."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None and experiment.lifecycle_stage == "active":
            found = self.client.search_runs(
                [experiment.experiment_id],
                f"tags.search = '{exported.search}' and tags.kind = 'trial' "
                f"and tags.`{naming.TRIAL_TAG}` = '{exported.trial}'",
                order_by=["attributes.start_time DESC"],
            )
            # Searches of one name may share a server: the trial's own figures tell them apart.
            run = next((run for run in found if _is_of(run.data.metrics, exported)), None)
            if run is not None:
                return run, run.data.tags.get(PARENT_TAG, "")
        return self._own_run(exported), ""

    def _own_run(self, exported: Exported) -> Any:
        """Make a run for a checkpoint whose search is not in this store."""
        experiment_id = self._experiment()
        run = self.client.create_run(
            experiment_id,
            run_name=f"{exported.search}:{exported.trial}",
            tags={**exported.tags, "kind": "registered", **source_tags("autoprune register")},
        )
        for key, value in exported.params.items():
            self.client.log_param(run.info.run_id, key, value)
        self.client.set_terminated(run.info.run_id, "FINISHED")
        return run

    def _experiment(self) -> str:
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            if experiment.lifecycle_stage != "active":
                self.client.restore_experiment(experiment.experiment_id)
            return str(experiment.experiment_id)
        path = sqlite_path(self.uri)
        home = self.home or (None if path is None else path.parent)
        where = None if home is None else artifact_root(self.uri, home)
        return str(self.client.create_experiment(EXPERIMENT, artifact_location=where))

    def _version(self, exported: Exported, model: Any, name: str, tags: dict[str, str]) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(
                name, description=_how_to_load(without_credentials(self.uri), name, exported)
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = self.client.create_model_version(
            name,
            f"models:/{model.model_id}",
            run_id=model.source_run_id,
            tags={**exported.tags, CONTENT_TAG: exported.content, **tags},
            description=exported.description,
            model_id=model.model_id,
        )
        known = json.loads(model.tags.get(VERSIONS_TAG, "[]"))
        known.append({"name": name, "version": str(version.version)})
        self.client.set_logged_model_tags(model.model_id, {VERSIONS_TAG: json.dumps(known)})
        return version


def _folder(address: str) -> Path | None:
    """Return the folder of an address of artifacts, or None where they are elsewhere."""
    place = urlsplit(address)
    return Path(unquote(place.path)) if place.scheme == "file" else None


def _is_of(metrics: Mapping[str, float], exported: Exported) -> bool:
    """Whether a trial's run has the figures of a checkpoint."""
    same = ("size/params", "size/backbone_removed", "retention_confirmed")
    return all(
        math.isclose(metrics[name], value, abs_tol=1e-5)  # they are logged rounded
        for name, value in exported.metrics.items()
        if name in same and name in metrics
    )


def _how_to_load(uri: str, name: str, exported: Exported) -> str:
    """Return the registered model's description: how any of its versions is loaded."""
    auto = next(iter(exported.config.get("auto_map", {})), "AutoModelForImageTextToText")
    more = ", trust_remote_code=True" if exported.own_code else ""
    return "\n".join(
        [
            "Checkpoints that AutoPrune exported. A version's files are a Hugging Face checkpoint.",
            "",
            "```python",
            "import mlflow",
            f"from transformers import {auto}, AutoProcessor",
            "",
            f'mlflow.set_tracking_uri("{uri}")',
            f'directory = mlflow.artifacts.download_artifacts("models:/{name}@{CHAMPION}")',
            f"model = {auto}.from_pretrained(directory{more})",
            "processor = AutoProcessor.from_pretrained(directory)",
            "```",
        ]
    )


@contextlib.contextmanager
def _global_uri(uri: str) -> Iterator[None]:
    """Set MLflow's own notion of the store, which a database's registry reads, for a while."""
    from mlflow.tracking._tracking_service.utils import _use_tracking_uri

    before = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        with _use_tracking_uri(uri):
            yield
    finally:
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _first_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    request, failed, _ = text.partition(" failed with exception ")
    return f"no answer: {request}" if failed else text[:200]
