"""Cells of an experiment: each is run once, on one of several processes, and written down at once.

A script names its cells and what one of them does; this module keeps the rows (JSON lines, one a
cell), leaves out what is there already, so that a script that was stopped goes on where it was,
and turns a row's answers back into scores that intervals can be made of.

    python -m experiments.paper_study.run --workers 2
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.evaluation.scores import TaskScore, TaskScores


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    Attributes:
        key: unique in its experiment; a row with it is not run again.
        what: plain JSON values: all that the work depends on.
    """

    key: str
    what: Mapping[str, Any]


Row = dict[str, Any]
"""``key``, the cell's ``what``, and what its work returned."""


def read_rows(path: Path) -> dict[str, Row]:
    """Return the rows of a file by key; a line that a kill cut off is left out."""
    rows: dict[str, Row] = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["key"]] = row
    return rows


def run_cells(
    path: Path,
    cells: Sequence[Cell],
    open_bench: Callable[[Any], Any],
    given: Any,
    work: Callable[[Any, Cell], Row],
    workers: int,
) -> dict[str, Row]:
    """Run the cells that ``path`` has no row of, and return all rows by key.

    Args:
        path: rows are appended here.
        cells: in the order in which they are begun.
        open_bench: of a module; called with ``given`` once in each process.
        given: picklable.
        work: of a module; called with the bench and a cell, returns plain JSON values.
        workers: processes, one thread each.

    A cell that raises ends the run, after the rows of the others that are under way.
    """
    rows = read_rows(path)
    missing = [cell for cell in cells if cell.key not in rows]
    print(f"{path.name}: {len(cells) - len(missing)} of {len(cells)} cells are there", flush=True)
    if not missing:
        return rows
    path.parent.mkdir(parents=True, exist_ok=True)
    began, done, failed = time.monotonic(), 0, None
    waiting = iter(missing)
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _open, (open_bench, given)
    ) as pool:
        flying = {pool.submit(_work, work, cell) for cell in islice(waiting, workers)}
        with path.open("a") as stream:
            while flying:
                ended, flying = wait(flying, return_when=FIRST_COMPLETED)
                for future in ended:
                    if future.exception() is not None:
                        failed = future.exception()
                        continue
                    row = future.result()
                    rows[row["key"]] = row
                    stream.write(json.dumps(row) + "\n")
                    stream.flush()
                    done += 1
                    left = (time.monotonic() - began) / done * (len(missing) - done)
                    print(
                        f"{done}/{len(missing)} {row['key']}  {left / 60:.1f} min left", flush=True
                    )
                if failed is None:
                    flying |= {pool.submit(_work, work, c) for c in islice(waiting, len(ended))}
    if failed is not None:
        raise failed
    return rows


_BENCH: Any = None


def _open(open_bench: Callable[[Any], Any], given: Any) -> None:
    import torch

    global _BENCH
    torch.set_num_threads(1)
    _BENCH = open_bench(given)


def _work(work: Callable[[Any, Cell], Row], cell: Cell) -> Row:
    began = time.perf_counter()
    found = work(_BENCH, cell)
    return {
        "key": cell.key,
        **cell.what,
        **found,
        "wall": round(time.perf_counter() - began, 3),
    }


def pack_scores(scores: TaskScores) -> str:
    """Return the answers of a model, right or wrong, as text: a bit a question."""
    values = np.concatenate([_values(task) for task in scores.tasks])
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError("only answers that are right or wrong fit into a bit")
    return base64.b64encode(np.packbits(values > 0).tobytes()).decode()


def unpack_scores(text: str, dense: TaskScores) -> TaskScores:
    """Return what :func:`pack_scores` packed, on the questions of ``dense``."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=dense.questions)
    tasks, start = [], 0
    for task in dense.tasks:
        values = bits[start : start + len(task.docs)].astype(np.float64)
        start += len(values)
        tasks.append(replace(task, values=values, score=float(values.mean())))
    return TaskScores(tuple(tasks))


def _values(task: TaskScore) -> np.ndarray:
    if task.values is None:
        raise ValueError(f"task {task.name} has no answers a question")
    return task.values


def by(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Return rows in groups of equal values of ``names``, in the order in which they came."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups
