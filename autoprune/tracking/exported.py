"""What an exported checkpoint tells the model registry: its files, and its card as plain data.

Read from the card's JSON files alone, so that a checkpoint can be registered where neither its
search nor its dense model is at hand. Names of metrics are those of the trial's run
(`autoprune.tracking.naming`), so that model and run show one figure under one name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoprune.errors import AutoPruneError
from autoprune.identity import content_hash, file_hash
from autoprune.tracking import naming
from autoprune.tracking.records.point import FrontPoint

CARD = ("plan.json", "recipe.json", "scores.json", "search.json")
ADDED = frozenset({"MLmodel", "registered_model_meta", "python_env.yaml", "requirements.txt"})
"""Files that MLflow or a registration put beside a checkpoint; they are not part of it."""
ADDED_CODE = "mlflow_code"
OWN = "checkpoint/"  # prefix of what these very weights scored, beside the mean over seeds


@dataclass(frozen=True)
class Exported:
    """A checkpoint directory as it is registered.

    Attributes:
        directory: where it stands.
        files: of the checkpoint, relative to it.
        nbytes: of all of them.
        content: hash of their names and bytes: equal checkpoints are one model.
        search, trial: what it came from.
        params: what was chosen, and what it was cut from.
        metrics: retention with its interval, scores a task, sizes.
        tags: to find it by.
        description: markdown.
        config: its ``config.json``.
    """

    directory: Path
    files: tuple[Path, ...]
    nbytes: int
    content: str
    search: str
    trial: int
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    description: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the checkpoint wherever it is shown: `demo-7`."""
        return f"{self.search}-{self.trial}"

    @property
    def own_code(self) -> bool:
        """Whether it brings the code that builds its layers."""
        return bool(self.config.get("auto_map"))


def read_exported(directory: Path) -> Exported:
    """Read an exported checkpoint.

    Raises:
        AutoPruneError: there is none, it is no checkpoint that AutoPrune wrote, or its card cannot
            be read.
    """
    if not directory.is_dir():
        raise AutoPruneError(
            f"{directory} is no directory: write a checkpoint with 'autoprune export NAME:TRIAL "
            f"-o {directory}', and register that"
        )
    lacking = [name for name in ("config.json", *CARD) if not (directory / name).is_file()]
    if lacking or not any(directory.glob("*.safetensors")):
        raise AutoPruneError(
            f"{directory} is no checkpoint that AutoPrune exported (it has no "
            f"{lacking[0] if lacking else '*.safetensors'}): register what 'autoprune export "
            "NAME:TRIAL -o DIR' writes"
        )
    files = checkpoint_files(directory)
    try:
        config, *card = (
            json.loads((directory / name).read_text()) for name in ("config.json", *CARD)
        )
        return _exported(directory, files, config, *card)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise AutoPruneError(
            f"the card of {directory} cannot be read ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}): export it again"
        ) from None


def checkpoint_files(directory: Path) -> tuple[Path, ...]:
    """Return the files of a checkpoint, relative to it, without what a registration adds."""
    found = (file.relative_to(directory) for file in directory.rglob("*") if file.is_file())
    return tuple(
        sorted(
            file
            for file in found
            if file.name not in ADDED
            and file.parts[0] != ADDED_CODE
            and not any(part.startswith(".") or part == "__pycache__" for part in file.parts)
        )
    )


def _exported(
    directory: Path,
    files: tuple[Path, ...],
    config: dict[str, Any],
    plan: dict[str, Any],
    recipe: dict[str, Any],
    scores: dict[str, Any],
    search: dict[str, Any],
) -> Exported:
    settings, dense = search["settings"], scores["dense"]
    point = None if scores["confirmed"] is None else FrontPoint.model_validate(scores["confirmed"])
    identity = content_hash({key: value for key, value in plan.items() if key != "precision"})
    params = {
        "axis": None if point is None else point.axis,
        "bits": scores["precision"],
        "budget": ", ".join(settings["budgets"]),
        "data_fraction": recipe["data_fraction"],
        "dense_model": dense["model"],
        "dense_params": dense["params"],
        "form": scores.get("form"),
        "fraction": round(scores["fraction"], 4),
        "params": scores["params"],
        "plan": identity,
        "recovery": scores.get("recovery"),
        "search": settings["name"],
        "seed": scores["seed"],
        "trial": search["trial"],
    }
    metrics: dict[str, float | None] = {} if point is None else {**naming.point_metrics(point)}
    if point is not None:
        metrics |= {"size/memory": point.memory, "latency/seconds": point.latency}
    metrics |= {
        "size/params": scores["params"],
        "size/fraction": scores["fraction"],
        "size/bytes": scores["bytes"],
        "size/bytes_fraction": scores["bytes_fraction"],
        "size/backbone_removed": scores["backbone_removed"],
        f"{OWN}retention": scores["retention"],
    }
    metrics |= {f"{OWN}{task}": value for task, value in scores["scores"].items()}
    tags = {
        "search": settings["name"],
        naming.TRIAL_TAG: str(search["trial"]),
        "plan": identity,
        "precision": scores["precision"],
        "budget": params["budget"],
        "licence": dense["licence"],
    }
    return Exported(
        directory=directory,
        files=files,
        nbytes=sum((directory / file).stat().st_size for file in files),
        content=content_hash({str(file): file_hash(directory / file) for file in files}),
        search=settings["name"],
        trial=search["trial"],
        params={key: str(value) for key, value in params.items() if value is not None},
        metrics=naming.shown(metrics),
        tags={key: str(value) for key, value in tags.items()},
        description=_description(settings["name"], search["trial"], scores, point),
        config=config,
    )


def _description(
    search: str, trial: int, scores: Mapping[str, Any], point: FrontPoint | None
) -> str:
    dense = scores["dense"]
    kept = ""
    if point is not None:
        r = point.retention
        kept = (
            f" It keeps {r.mean:.3f} [{r.low:.3f}, {r.high:.3f}] of the original's ability, "
            f"confirmed over {r.seeds} seeds" + (f" ({point.tie})." if point.tie else ".")
        )
    elif scores["retention"] is not None:
        kept = (
            f" These weights keep {scores['retention']:.3f} of the original's ability on split "
            f"`{scores['split']}`; they were not confirmed over seeds."
        )
    lines = [
        f"`{search}:{trial}`: {dense['model']} cut to {scores['fraction']:.1%}, "
        f"{scores['params']:,} of {dense['params']:,} parameters in {scores['precision']}.{kept}",
        "",
        "| task | this model | dense model |",
        "|---|---:|---:|",
    ]
    shown = scores["scores"] if point is None else point.scores
    lines += [
        f"| {task} | {value:.3f} | {_figure(dense['scores'].get(task))} |"
        for task, value in shown.items()
    ]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
