"""The documents of one task that are asked, as columns without media."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

SUFFIX = ".docs.json"


@dataclass(frozen=True, eq=False)
class Documents:
    """Columns, one item a document, in the order of the task's data.

    Attributes:
        doc_id: name of the document, unique over all tasks.
        image_id: what it shows: documents that share an image share it.
        sample: row of the sample set that its question stands in.
        turn: its place among the questions of that sample.
        packed: whether it may be answered beside other questions about its image.
        question: the whole prompt, as far as it is known before it is asked.
        answer: the right answer, as far as the task says one.
        ring: ``[0, 1)``, where its image stands on the circle that shares are arcs of.
        stratum: the stratum of its image.
    """

    doc_id: list[str]
    image_id: list[str]
    sample: list[int]
    turn: list[int]
    packed: list[bool]
    question: list[str]
    answer: list[str]
    ring: list[float]
    stratum: list[int]

    def __len__(self) -> int:
        return len(self.doc_id)

    def only(self, rows: Sequence[int] | np.ndarray) -> Documents:
        """Return the documents of these rows."""
        picked = {f.name: [getattr(self, f.name)[int(r)] for r in rows] for f in fields(self)}
        return Documents(**picked)

    def write(self, folder: Path, task: str) -> None:
        """Write them beside the task's data."""
        (folder / f"{task}{SUFFIX}").write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path, task: str) -> Documents | None:
        """Read what :meth:`write` wrote; None where there is nothing."""
        path = folder / f"{task}{SUFFIX}"
        return cls(**json.loads(path.read_text())) if path.is_file() else None
