"""Score a model, and take it away."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.api.model import SmallerModel
from autoprune.api.options import Names, names_of
from autoprune.search.settings import SearchSettings

if TYPE_CHECKING:
    from autoprune.data.splits import DataSpec
    from autoprune.deploy.export import Exported
    from autoprune.deploy.pick.pick import Picked
    from autoprune.deploy.scoring import Scored

HOME: Path = SearchSettings.model_fields["home"].default


def evaluate(
    model: str | Path | SmallerModel,
    *,
    tasks: Names = (),
    data: Names = (),
    images: str | Path | None = None,
    columns: Names = (),
    task_data: Names = (),
    split: str | None = None,
    samples: int | None = None,
    dense: str | Path | None = None,
    gpus: float = 0.0,
    on_stage: Callable[[str], None] = lambda text: None,
) -> Scored:
    """Score a model on the tasks, and say what it retains of its dense model.

    Args:
        model: a checkpoint directory, ``embedded``, a hub name, or a model of :func:`prune`; that
            is saved for the purpose, so that what is scored is what a checkpoint holds.
        tasks: names or YAML files; by default those that a model of ``prune`` was made with, or
            all of the embedded data.
        data: ask about held-out rows of data of your own, as a search on it does, in place of
            ``tasks``; by default that of a model of ``prune`` that was made on some without tasks.
        images: folder that the image paths of ``data`` start from.
        columns: of ``data``, as ``question=prompt``.
        task_data: local copies of tasks' data, as ``TASK=DIR``; by default those of a model of
            ``prune``, where its tasks are asked.
        split: ``all``, ``search`` or ``confirm``.
        samples: images to ask about; by default all of the split.
        dense: to compare with; by default the model that it was cut from, where that is known.
        gpus: 0 computes on the CPU.
        on_stage: told what begins.

    Raises:
        AutoPruneError: for an unknown model, task or split, or a model that cannot be scored.
    """
    from autoprune.deploy.scoring import score_model
    from autoprune.search.own_data import read_spec

    folder_of = None if images is None else str(images)
    rows = read_spec(names_of(data), folder_of, names_of(columns))

    def scored(
        ref: str,
        names: tuple[str, ...],
        asked: DataSpec | None,
        beside: str | None,
        copies: tuple[str, ...] = names_of(task_data),
    ) -> Scored:
        return score_model(
            ref,
            tasks=names,
            data=asked,
            split=split,
            samples=samples,
            dense=beside,
            task_data=copies,
            gpus=gpus,
            on_stage=on_stage,
        )

    base = None if dense is None else str(dense)
    if not isinstance(model, SmallerModel):
        return scored(str(model), names_of(tasks), rows, base)
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        saved = model.save(Path(folder) / "model")
        names, made = names_of(tasks), model.settings
        beside = base or made.model
        if names or rows is not None:
            return scored(str(saved.path), names, rows, beside)
        copies = names_of(task_data) or made.task_data
        own = None if made.tasks else made.data_spec
        return scored(str(saved.path), made.tasks, own, beside, copies)


def pick(
    *names: Names,
    device: str | None = None,
    min_retention: float | None = None,
    max_latency: str | None = None,
    max_params: str | int | None = None,
    max_memory: str | None = None,
    context: int | None = None,
    cost_model: str | None = None,
    floor: Names = (),
    home: str | Path = HOME,
) -> Picked:
    """Choose the point of finished searches that keeps the most under constraints.

    Args:
        names: of searches of one dense model.
        device: whose memory it has to fit, and whose time a token is said; ``here`` is measured.
        min_retention: least share of the dense model's ability.
        max_latency: most time of a token, such as ``40ms``.
        max_params: most parameters, such as ``3B``.
        max_memory: most memory, such as ``6GiB``.
        context: tokens of text, beside an image, that memory and time are said for.
        cost_model: what says the time of a token on a device; by default what the search used.
        floor: least shares of tasks or capabilities, such as ``pope=0.9``.
        home: of the searches.

    Returns:
        The winner, the runner-up, and why each other point lost.

    Raises:
        AutoPruneError: for bad input; and where nothing fits, with what comes nearest.
        StoppedError: for a search that has no confirmed front yet.
    """
    from autoprune.deploy.pick.pick import pick_named

    def text(limit: object) -> str | None:
        return None if limit is None else str(limit)

    return pick_named(
        tuple(name for several in names for name in names_of(several)),
        home=Path(home),
        device=device,
        min_retention=min_retention,
        max_latency=text(max_latency),
        max_params=text(max_params),
        max_memory=text(max_memory),
        context=context,
        cost_model=cost_model,
        floors=names_of(floor),
    )


def export(
    source: str | Path,
    output: str | Path,
    *,
    format: str = "hf",
    rebuild: bool = False,
    gpus: float = 0.0,
    register: str | None = None,
    tracking_uri: str | None = None,
    home: str | Path = HOME,
    on_stage: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Write one point of a search in a format that runs elsewhere, proved before it appears.

    Args:
        source: ``NAME:TRIAL`` of a search, or a checkpoint directory that was exported before.
        output: a directory that does not exist yet, or is empty.
        format: ``hf``, or another that ``autoprune export --help`` lists.
        rebuild: train it again, and state the difference to what was kept.
        gpus: to rebuild with; 0 computes on the CPU.
        register: name to register a checkpoint under in MLflow's model registry as well.
        tracking_uri: of that registry; by default the one of ``home``.
        home: of the search.
        on_stage: told what begins.

    Raises:
        AutoPruneError: for bad input, or a model that the format cannot hold; nothing is written.
    """
    from autoprune.deploy.export import export_named

    return export_named(
        str(source),
        Path(output),
        format,
        rebuild=rebuild,
        gpus=gpus,
        register=register,
        tracking_uri=tracking_uri,
        home=Path(home),
        on_stage=on_stage,
    )
