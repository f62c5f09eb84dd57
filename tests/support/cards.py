"""The card that goes beside a checkpoint, of a trial that never ran."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autoprune.tracking.records.point import FrontPoint
from autoprune.tracking.records.trial import TrialRecord


def write_card(
    directory: Path, record: TrialRecord, point: FrontPoint | None, *, search: str = "demo"
) -> Path:
    """Write the card's four files of a trial into a directory."""
    dense = {"model": "embedded", "identity": "0", "params": 2_058_944, "licence": "Apache-2.0"}
    files: dict[str, Any] = {
        "plan.json": {"precision": record.precision, "layers": [record.trial]},
        "recipe.json": {"data_fraction": record.data_fraction, "seed": record.seed},
        "search.json": {
            "trial": record.trial,
            "settings": {"name": search, "budgets": ["60%"], "model": "embedded"},
        },
        "scores.json": {
            "params": record.params,
            "fraction": record.fraction,
            "backbone_removed": record.backbone_removed,
            "bytes": record.bytes,
            "bytes_fraction": record.bytes_fraction,
            "precision": record.precision,
            "split": "confirm",
            "seed": record.seed,
            "scores": record.scores,
            "retention": record.retention,
            "retention_raw": record.retention_raw,
            "confirmed": None if point is None else point.model_dump(mode="json"),
            "dense": {**dense, "scores": dict.fromkeys(record.scores, 0.95)},
            "form": "any",
            "recovery": record.recovery,
        },
    }
    for name, value in files.items():
        (directory / name).write_text(json.dumps(value))
    return directory
