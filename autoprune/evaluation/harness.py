"""lmms-eval in this process: imported when first used, quiet, and not reaching for anything."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from autoprune.errors import AutoPruneError, did_you_mean

ANSWERING = ("generate_until", "multiple_choice", "loglikelihood")
"""Types of task that are answered here: one text, or a choice among given ones."""


@cache
def lmms_eval() -> SimpleNamespace:
    """Import lmms-eval (about 2 s and 60 MB beyond torch, transformers and datasets).

    Importing it replaces loguru's sinks by one on stdout, which belongs to results; its own
    messages are switched off here and the sink is put on stderr.
    """
    import lmms_eval.api.model
    import lmms_eval.api.task
    import lmms_eval.evaluator
    import lmms_eval.tasks
    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    logger.disable("lmms_eval")
    for method in (
        lmms_eval.api.task.ConfigurableTask.download,
        lmms_eval.api.task.ConfigurableTask.process_results,
    ):
        # An error stays one: tried again five times it takes ten seconds and is no clearer.
        method.retry.stop = lambda state: True
        method.retry.reraise = True
    return SimpleNamespace(
        model=lmms_eval.api.model,
        task=lmms_eval.api.task,
        evaluator=lmms_eval.evaluator,
        tasks=lmms_eval.tasks,
    )


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Switch the progress bars of ``datasets`` off, and back on if they were."""
    import datasets

    off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not off:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep lmms-eval's progress bars and prints away from the terminal."""
    from tqdm import tqdm

    def silent(*args: Any, **kwargs: Any) -> tqdm:
        return tqdm(*args, **{**kwargs, "disable": True})

    modules = (lmms_eval().evaluator, lmms_eval().task)
    kept = [module.tqdm for module in modules]
    try:
        for module in modules:
            module.tqdm = silent
        with (
            no_progress_bars(),
            silent("datasets"),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            yield
    finally:
        for module, bar in zip(modules, kept, strict=True):
            module.tqdm = bar


def load_task(name: str, task_dir: Path, split: str) -> Any:
    """Build the lmms-eval task object of a materialised task; 10-20 ms."""
    tasks = lmms_eval().tasks
    with quietly():
        manager = tasks.TaskManager(include_path=str(task_dir), include_defaults=False)
        if name not in manager.all_tasks:
            raise AutoPruneError(
                f"task {name!r} is not among those in {task_dir} "
                f"({', '.join(manager.all_tasks)}): materialise it there"
            )
        # The arrow copy of the data stays beside it instead of in the home directory.
        local = {
            "data_files": {split: str(Path(task_dir).resolve() / f"{name}.parquet")},
            "cache_dir": str(Path(task_dir).resolve() / "arrow"),
        }
        found = tasks.get_task_dict([{"task": name, "dataset_kwargs": local}], manager)
    return found[name]


def build_task(config: dict[str, Any], data: Any = None, *, process: bool = True) -> Any:
    """Build a task object of a configuration that was read with its functions.

    Args:
        config: of the task.
        data: its documents, a ``DatasetDict``; None loads them as the configuration says.
        process: let its ``process_docs`` at the given documents.
    """
    if data is not None and not process:
        config = {**config, "process_docs": None}
    with quietly():
        return _given_task()(config, data)


@cache
def _given_task() -> type:
    """Return the class of tasks whose documents may be given."""
    import datasets

    class GivenTask(lmms_eval().task.ConfigurableTask):  # type: ignore[name-defined,misc]
        def __init__(self, config: dict[str, Any], data: Any = None) -> None:
            self._given = data
            super().__init__(config=config)

        def download(self, dataset_kwargs: Any = None) -> None:
            if self._given is None:
                super().download(dataset_kwargs)
                return
            self.dataset = datasets.DatasetDict(self._given)
            if self.config.process_docs is not None:
                for name in self.dataset:
                    self.dataset[name] = self.config.process_docs(self.dataset[name])
            self.dataset_no_image = datasets.DatasetDict(
                {name: without_media(split) for name, split in self.dataset.items()}
            )

        def process_results(self, doc: Any, results: Any, full_docs: Any = None) -> Any:
            # Of a single given answer lmms-eval unpacks the list of pairs as if it were the pair.
            own = callable(self.config.process_results)
            if self.OUTPUT_TYPE == "loglikelihood" and not own and len(results) == 1:
                results = results[0]
            return super().process_results(doc, results, full_docs)

    return GivenTask


def image_columns(data: Any) -> list[str]:
    """Return the columns of a data set that hold images, one or a list of them."""
    import datasets

    kinds = {name: getattr(kind, "feature", kind) for name, kind in data.features.items()}
    return [name for name, kind in kinds.items() if isinstance(kind, datasets.Image)]


def without_media(data: Any) -> Any:
    """Return a data set without its columns of images, sound and films."""
    import datasets

    media = (datasets.Image, datasets.Audio, getattr(datasets, "Video", datasets.Audio))
    kinds = {name: getattr(kind, "feature", kind) for name, kind in data.features.items()}
    return data.remove_columns([name for name, kind in kinds.items() if isinstance(kind, media)])


class FreshDocs(list):  # type: ignore[type-arg]
    """Documents without media, each read as a copy: some tasks change what they are given."""

    def __getitem__(self, index: Any) -> Any:
        return copy.deepcopy(super().__getitem__(index))

    def __iter__(self) -> Iterator[Any]:
        return (copy.deepcopy(doc) for doc in super().__iter__())


def select_docs(
    task: Any, split: str, rows: Sequence[int] | None = None, used: Sequence[str] | None = None
) -> None:
    """Restrict a task object to these documents; its own ``limit`` only takes the first ones.

    lmms-eval reads every document without its media twice a run. It gets them as a list, which is
    four times as fast as a data set; a task that scores by its images is left as it is.

    Args:
        task: as built.
        split: that it asks.
        rows: of the documents; None keeps all.
        used: columns that the task reads and leaves as they are; None: all, each time as a copy,
            since some tasks change what they read.
    """
    data = task.dataset[split]
    if rows is not None:
        data = data.select(rows)
        task.dataset = type(task.dataset)({split: data})
    task.task_docs = data
    if getattr(task.config, "process_results_use_image", False):
        task.dataset_no_image = task.dataset
    elif used is None:
        docs = FreshDocs(without_media(data).to_list())
        task.dataset_no_image = {split: docs}
        task.task_docs = docs  # what filters read
    else:
        task.dataset_no_image = {split: data.select_columns(list(used)).to_list()}


def only_metrics(task: Any, metrics: Sequence[str]) -> None:
    """Let a task aggregate these metrics alone: others may write files, or ask a judge."""
    known = task._aggregation_list
    missing = [metric for metric in metrics if metric not in known]
    if missing:
        raise AutoPruneError(
            f"task {task.config.task!r} reports no {missing[0]!r}{did_you_mean(missing[0], known)}"
        )
    task._aggregation_list = {metric: known[metric] for metric in metrics}


def run(
    tasks: Sequence[Any],
    answer: Callable[[list[Any]], list[str]],
    rank: Callable[[list[Any]], list[tuple[float, bool]]] | None = None,
) -> dict[str, Any]:
    """Run lmms-eval's ``simple_evaluate`` over task objects.

    Args:
        tasks: task objects, reused between calls.
        answer: one text per request (``generate_until`` instances); what it raises, this raises.
        rank: of each request with a given answer (``loglikelihood`` instances) its loss, smaller
            is likelier, and whether greedy decoding would give it.

    Returns:
        lmms-eval's results, with ``samples``.

    Raises:
        AutoPruneError: a task talks in rounds, or answers are missing.
    """
    harness = lmms_eval()
    # No argument that touches the global random state or the network; what an aggregation writes
    # goes where it is removed again.
    with quietly(), _cheap_collection(), _alone(), tempfile.TemporaryDirectory() as scratch:
        arguments = SimpleNamespace(process_with_media=False, output_path=scratch)
        results = harness.evaluator.simple_evaluate(
            model=_wrapper(answer, rank),
            tasks=list(tasks),
            task_manager=harness.tasks.TaskManager(include_defaults=False),
            cli_args=arguments,
            bootstrap_iters=0,
            process_docs_parallel=1,
            log_samples=True,
            distributed_executor_backend="torchrun",
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
        )
    return dict(results)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hide a launcher's ranks: lmms-eval would share one model's questions out among them."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextlib.contextmanager
def _cheap_collection() -> Iterator[None]:
    """Leave what is already there out of garbage collections while many small objects come and go.

    With torch and transformers loaded a full one takes 0.3 s, more than all else in lmms-eval.
    """
    if gc.get_freeze_count():  # somebody else's, and not ours to thaw
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def ranked(
    found: Sequence[tuple[float, bool]], requests: Sequence[Any]
) -> Sequence[tuple[float, bool]]:
    """Return ``found``, one for each request.

    Raises:
        AutoPruneError: there are more or fewer.
    """
    if len(found) != len(requests):
        raise AutoPruneError(f"{len(found)} losses for {len(requests)} given answers")
    return found


def _wrapper(
    answer: Callable[[list[Any]], list[str]],
    rank: Callable[[list[Any]], list[tuple[float, bool]]] | None,
) -> Any:
    """Return an lmms-eval model around ``answer``.

    The loaded model stays in the closure: lmms-eval deletes modules that it finds as attributes.
    """

    from lmms_eval.api.instance import GenerationResult as generation_result  # noqa: N813

    class Wrapper(lmms_eval().model.lmms):  # type: ignore[name-defined,misc]
        is_simple = True

        def generate_until(self, requests: list[Any]) -> list[str]:
            answers = answer(requests)
            if len(answers) != len(requests):
                # lmms-eval zips them, and would score the rest as never asked.
                raise AutoPruneError(f"{len(answers)} answers for {len(requests)} questions")
            return answers

        def loglikelihood(self, requests: list[Any]) -> list[Any]:
            if rank is None:
                raise AutoPruneError(
                    f"task {requests[0].task_name!r} ranks given answers: choose one that generates"
                )
            return [generation_result(text=pair) for pair in ranked(rank(requests), requests)]

        def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
            raise AutoPruneError(
                f"task {requests[0].task_name!r} talks in rounds: choose one that asks once"
            )

        def clean(self) -> None:
            """Leave the caller's model and its memory alone."""

    return Wrapper()
