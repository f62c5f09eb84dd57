"""lmms-eval in this process: imported when first used, quiet, and not reaching for anything."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from autoprune.errors import AutoPruneError
from autoprune.evaluation.tasks import no_progress_bars


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
    return SimpleNamespace(
        model=lmms_eval.api.model,
        task=lmms_eval.api.task,
        evaluator=lmms_eval.evaluator,
        tasks=lmms_eval.tasks,
    )


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
        with no_progress_bars(), contextlib.redirect_stdout(io.StringIO()):
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


def select_docs(task: Any, split: str, rows: Sequence[int]) -> dict[str, list[Any]]:
    """Restrict a task object to these documents; its own ``limit`` only takes the first ones.

    lmms-eval reads every document without its image twice a run; it gets them as a list with the
    columns that the task uses, which is four times as fast as a data set.

    Returns:
        The columns of the documents, without images.
    """
    data = task.dataset[split].select(rows)
    columns = {
        name: task.dataset_no_image[split].select(rows)[name][:]
        for name in data.features
        if name in task.dataset_no_image[split].features
    }
    task.dataset = type(task.dataset)({split: data})
    used = (task.config.doc_to_text, task.config.doc_to_target)
    task.dataset_no_image = {
        split: [
            dict(zip(used, doc, strict=True))
            for doc in zip(*(columns[u] for u in used), strict=True)
        ]
    }
    task.task_docs = data
    return columns


def run(tasks: Sequence[Any], answer: Callable[[list[Any]], list[str]]) -> dict[str, Any]:
    """Run lmms-eval's ``simple_evaluate`` over task objects.

    Args:
        tasks: task objects, reused between calls.
        answer: one text per request (``generate_until`` instances); what it raises, this raises.

    Returns:
        lmms-eval's results, with ``samples``.

    Raises:
        AutoPruneError: a task asks for anything but one generated text, or answers are missing.
    """
    harness = lmms_eval()
    # No argument that touches the global random state, the disk or the network.
    arguments = SimpleNamespace(process_with_media=False, output_path=None)
    with quietly(), _cheap_collection(), _alone():
        results = harness.evaluator.simple_evaluate(
            model=_wrapper(answer),
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


def _wrapper(answer: Callable[[list[Any]], list[str]]) -> Any:
    """Return an lmms-eval model around ``answer``.

    The loaded model stays in the closure: lmms-eval deletes modules that it finds as attributes.
    """

    class Wrapper(lmms_eval().model.lmms):  # type: ignore[name-defined,misc]
        is_simple = True

        def generate_until(self, requests: list[Any]) -> list[str]:
            answers = answer(requests)
            if len(answers) != len(requests):
                # lmms-eval zips them, and would score the rest as never asked.
                raise AutoPruneError(f"{len(answers)} answers for {len(requests)} questions")
            return answers

        def loglikelihood(self, requests: list[Any]) -> list[Any]:
            raise AutoPruneError(
                f"task {requests[0].task_name!r} ranks given answers: choose one that generates"
            )

        def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
            raise AutoPruneError(
                f"task {requests[0].task_name!r} talks in rounds: choose one that asks once"
            )

        def clean(self) -> None:
            """Leave the caller's model and its memory alone."""

    return Wrapper()
