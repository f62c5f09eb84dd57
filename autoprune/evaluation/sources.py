"""The documents of a task: by lmms-eval's own loading, or from a copy on this machine.

Whatever is in the way is one line: no hub, no login, no such file, a column that is not there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.evaluation.catalogue import read_yaml
from autoprune.evaluation.harness import ANSWERING, build_task, lmms_eval, quietly
from autoprune.evaluation.tasks import TaskSpec
from autoprune.hub import asked, switched_off


def load_all(spec: TaskSpec) -> Any:
    """Return the lmms-eval task of ``spec`` with all of its documents.

    Raises:
        AutoPruneError: its documents cannot be had, or its file does not fit them.
    """
    config = config_of(spec)
    kind = str(config.get("output_type", "generate_until"))
    if kind not in ANSWERING:
        raise AutoPruneError(
            f"task {spec.name!r} is of type {kind}, which is unknown, talks in rounds or draws: "
            f"choose one of type {', '.join(ANSWERING)}"
        )
    split = split_of(config)
    if not spec.data:
        with _telling(spec, config), asked():
            return build_task(config)
    data = local_copy(spec, split, config.get("dataset_name"))
    joined = bool(spec.joined) and spec.joined in data[split].column_names
    with _telling(spec, config, data[split].column_names):
        return build_task(config, data, process=not joined)


def split_of(config: Mapping[str, Any]) -> str:
    """Return the split of its data that a task asks."""
    return str(config.get("test_split") or config.get("validation_split"))


def config_of(spec: TaskSpec) -> dict[str, Any]:
    """Return a task's configuration with its functions, read from its YAML file.

    Raises:
        AutoPruneError: a function of it cannot be imported.
    """
    path = spec.path
    read_yaml(path)  # says what is wrong with it better
    lmms_eval()
    from lmms_eval.utils import load_yaml_config

    try:
        with quietly():
            config = dict(load_yaml_config(str(path), mode="full"))
    except Exception as error:
        raise AutoPruneError(
            f"task {spec.name!r}: a function that {path} names cannot be imported "
            f"({_first_line(error)}): mend it, or install what it needs"
        ) from None
    config = copy.deepcopy({**config, "task": spec.name})
    place, kwargs = config.get("dataset_path"), config.get("dataset_kwargs") or {}
    if kwargs.get("load_from_disk") and not Path(str(place)).is_absolute():
        beside = path.parent / str(place)
        if beside.exists():
            config["dataset_path"] = str(beside)
    return config


def local_copy(spec: TaskSpec, split: str, name: str | None = None) -> Any:
    """Return a local copy of a task's documents, as ``DatasetDict`` of the one split it asks.

    Args:
        spec: whose ``data`` is a parquet file, a folder of such files (as a download from the hub
            is), or a folder that ``save_to_disk`` wrote.
        split: that the task asks.
        name: of the configuration, where the folder holds several.

    Raises:
        AutoPruneError: it holds none of these, or not that split.
    """
    import datasets

    place = Path(spec.data)
    try:
        with quietly():
            found: Any = None
            if any((place / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
                found = datasets.load_from_disk(str(place))
            else:
                files = _parquet_files(place, split, name)
                if files:
                    found = datasets.Dataset.from_parquet([str(file) for file in files])
    except Exception as error:
        raise AutoPruneError(
            f"--task-data {spec.name}={spec.data} cannot be read ({_first_line(error)}): write it "
            "again"
        ) from None
    if found is None:
        raise AutoPruneError(
            f"--task-data {spec.name}={spec.data} holds no parquet file and nothing that "
            "save_to_disk wrote: name one that does"
        )
    if isinstance(found, dict):
        if split not in found and len(found) > 1:
            raise AutoPruneError(
                f"--task-data {spec.name}={spec.data} has splits {', '.join(found)}, and the task "
                f"asks split {split!r}: name a copy that has it"
            )
        found = found[split] if split in found else next(iter(found.values()))
    if not len(found):
        raise AutoPruneError(f"--task-data {spec.name}={spec.data} has no rows: name another copy")
    return datasets.DatasetDict({split: _with_images(found)})


def _parquet_files(place: Path, split: str, name: str | None) -> list[Path]:
    if place.is_file():
        return [place]
    folder = place / name if name and (place / name).is_dir() else place
    files = sorted(folder.rglob("*.parquet"))
    own = [f for f in files if f.stem.split("-")[0] == split or f.parent.name == split]
    return own or files


def _with_images(data: Any) -> Any:
    """Read columns of encoded images as images, where the file does not say that they are."""
    import datasets

    image = datasets.Image()
    for name, kind in data.features.items():
        inner = getattr(kind, "feature", kind)
        fields = set(inner) if isinstance(inner, Mapping) else set()
        binary = getattr(inner, "dtype", "") in ("binary", "large_binary") and "image" in name
        if fields == {"bytes", "path"} or binary:
            cast = image if inner is kind else datasets.List(image)
            data = data.cast_column(name, cast)
    return data


class _telling:  # noqa: N801 - used as a context manager
    """Turn what loading a task raises into a line for the user."""

    def __init__(
        self, spec: TaskSpec, config: Mapping[str, Any], columns: list[str] | None = None
    ) -> None:
        self.spec, self.config, self.columns = spec, config, columns

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, AutoPruneError) or not isinstance(error, Exception):
            return
        raise AutoPruneError(self._line(error)) from error

    def _line(self, error: Exception) -> str:
        name, place = self.spec.name, self.config.get("dataset_path")
        causes = _causes(error)
        kinds = {cls.__name__ for cause in causes for cls in type(cause).__mro__}
        text = " ".join(str(cause) for cause in causes).lower()
        if self.columns is None:
            mend = f"give a copy of its documents with --task-data {name}=DIR"
            if "LocalTokenNotFoundError" in kinds or "GatedRepoError" in kinds:
                return (
                    f"task {name!r} reads {place} from the Hugging Face hub, which wants a login: "
                    f"'hf auth login', or {mend}"
                )
            reach = kinds & {"ConnectionError", "ConnectError", "TimeoutException", "HTTPError"}
            absent = kinds & {"DatasetNotFoundError", "RepositoryNotFoundError"}
            uncached = "is not cached in" in text
            if switched_off() and (reach or absent or uncached or "OfflineModeIsEnabled" in kinds):
                return (
                    f"task {name!r} reads {place} from the Hugging Face hub, and "
                    f"{switched_off()[0]} keeps it away: unset it, or {mend}"
                )
            if reach or uncached or "OfflineModeIsEnabled" in kinds:
                return (
                    f"task {name!r} reads {place} from the Hugging Face hub, which does not "
                    f"answer: connect this machine, or {mend}"
                )
            if absent:
                return (
                    f"task {name!r} reads {place}, which is not on the Hugging Face hub or not "
                    f"yours to read: 'hf auth login', or {mend}"
                )
            if "FileNotFoundError" in kinds or "couldn't find" in text:
                return (
                    f"task {name!r} reads {place}, where its files are not "
                    f"({_first_line(causes[0])}): mend dataset_path or data_files in its file, or "
                    f"{mend}"
                )
        missing = causes[0].args[0] if isinstance(causes[0], KeyError) and causes[0].args else None
        if missing is not None and missing == split_of(self.config):
            return (
                f"task {name!r} asks split {missing!r}, which its documents do not have: mend "
                "test_split in its file"
            )
        if missing is not None and missing in _metrics(self.config):
            return (
                f"task {name!r} lists metric {missing!r}, which lmms-eval does not have"
                f"{did_you_mean(str(missing), _registered())}: mend metric_list in its file"
            )
        there = "" if self.columns is None else f"; columns there: {', '.join(self.columns)}"
        return (
            f"task {name!r} cannot read its documents{_files_of(self.config)} "
            f"({_first_line(causes[0])}{there}): give it those that its file asks for"
        )


def _files_of(config: Mapping[str, Any]) -> str:
    """Name the files that a task's documents are in, where its file says any."""
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    return f" in {files}" if files else ""


def _metrics(config: Mapping[str, Any]) -> list[Any]:
    listed = config.get("metric_list") or []
    return [metric.get("metric") for metric in listed if isinstance(metric, Mapping)]


def _registered() -> list[str]:
    """Return the metrics that lmms-eval knows by name."""
    lmms_eval()
    from lmms_eval.api.registry import METRIC_REGISTRY

    return list(METRIC_REGISTRY)


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and what it came from, the first cause of a retry first."""
    found: list[BaseException] = []
    left: BaseException | None = error
    while left is not None and left not in found:
        found.append(left)
        left = left.__cause__ or left.__context__
    return found


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:160]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
