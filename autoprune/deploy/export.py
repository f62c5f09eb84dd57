"""A candidate in any format: made as a checkpoint, converted, proved, and only then put there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.deploy.apply import Applied, Stage, apply_kept, rebuild
from autoprune.deploy.card import CARD, read_card
from autoprune.deploy.formats.format import Format, Outline
from autoprune.deploy.formats.table import CHECKPOINT, find_format
from autoprune.deploy.source import (
    Source,
    from_checkpoint,
    from_search,
    is_checkpoint,
    parse_trial,
)
from autoprune.errors import AutoPruneError

if TYPE_CHECKING:
    from autoprune.search.records.store import SearchStore
    from autoprune.tracking.registry import Registered


@dataclass(frozen=True)
class Exported:
    """A model that was written in a format and proved.

    Attributes:
        path: where it stands.
        format: that it is in.
        nbytes: of all its files.
        proved: what a fresh process found; sentences.
        figures: the same in numbers.
        applied: of the checkpoint that it was made from, where that was made too.
        registered: as which version of which model, where that was asked for.
    """

    path: Path
    format: str
    nbytes: int
    proved: tuple[str, ...]
    figures: Mapping[str, float] = field(default_factory=dict)
    applied: Applied | None = None
    registered: Registered | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``export --json`` prints."""
        made = self.applied
        return {
            "path": str(self.path),
            "format": self.format,
            "bytes": self.nbytes,
            "params": None if made is None else made.params,
            "retention": None if made is None else made.retention,
            "proved": list(self.proved),
            "figures": dict(self.figures),
            "registered": None if self.registered is None else self.registered.to_dict(),
        }


def source_of(
    ref: str, home: Path, *, searched: SearchStore | None, trial: int, checkpoint: bool
) -> Source:
    """Return what is to be exported: a trial of a search, or a checkpoint directory.

    Args:
        ref: as typed.
        home: where caches go.
        searched: the search, where ``ref`` names one.
        trial: its trial.
        checkpoint: whether a checkpoint can be used at all here.

    Raises:
        AutoPruneError: it is neither, or a checkpoint where none is of use.
    """
    if searched is not None:
        return from_search(searched, trial)
    directory = Path(ref)
    if not is_checkpoint(directory):
        lacks = next((name for name in CARD if not (directory / name).is_file()), "")
        raise AutoPruneError(
            f"{ref} is no checkpoint that apply wrote (it has no {lacks}): give NAME:TRIAL, such "
            "as demo:7"
        )
    if not checkpoint:
        raise AutoPruneError(
            f"{ref} is a checkpoint already: copy it, or make it again with --rebuild"
        )
    return from_checkpoint(directory, home)


def export_named(
    ref: str,
    out: Path,
    format_name: str = CHECKPOINT,
    *,
    rebuild: bool = False,
    gpus: float = 0.0,
    register: str | None = None,
    tracking_uri: str | None = None,
    home: Path,
    on_stage: Stage = lambda text: None,
) -> Exported:
    """Write what ``NAME:TRIAL`` or a checkpoint directory stands for in a format.

    Args:
        ref: as typed.
        out: a directory that does not exist yet, or is empty.
        format_name: one of the table's.
        rebuild: train it again, and state the difference to what was kept.
        gpus: for that; 0 computes on the CPU.
        register: name to register a checkpoint under in MLflow's model registry as well.
        tracking_uri: of that registry; None: the one of ``home``.
        home: of the search.
        on_stage: told in words what is being done.

    Raises:
        AutoPruneError: something typed cannot be had, before any work; or as :func:`export`.
    """
    find_format(format_name)
    registry = _registry(register, tracking_uri, format_name, home)
    if gpus and not rebuild:
        raise AutoPruneError(
            f"--gpus {gpus:g} has nothing to compute without --rebuild, as kept weights are only "
            "written: leave it out"
        )
    from autoprune.search.records.store import find_search

    searched, trial = None, 0
    if ":" in ref or not Path(ref).is_dir():
        name, trial = parse_trial(ref)
        searched = find_search(home, name)
    checkpoint = rebuild or format_name != CHECKPOINT
    found = source_of(ref, home, searched=searched, trial=trial, checkpoint=checkpoint)
    made = export(found, out, format_name, again=rebuild, gpus=gpus, on_stage=on_stage)
    if register is None:
        return made
    from autoprune.tracking.registry import register as hand_over

    on_stage("hand it to MLflow's model registry")
    return replace(made, registered=hand_over(registry, made.path, register, home=home))


def _registry(name: str | None, typed: str | None, format_name: str, home: Path) -> str:
    """Return the registry's address; empty where nothing is registered.

    Raises:
        AutoPruneError: name or address cannot be used, or the format cannot be registered.
    """
    if name is None:
        if typed is not None:
            raise AutoPruneError(
                "--tracking-uri says where to register, and --register NAME is missing: add it, "
                "or leave --tracking-uri out"
            )
        return ""
    if format_name != CHECKPOINT:
        raise AutoPruneError(
            f"--register {name} takes Hugging Face checkpoints, and --format is {format_name}: "
            f"export with --format {CHECKPOINT}, or leave --register out"
        )
    from autoprune.tracking.location import check_tracking, default_uri
    from autoprune.tracking.model_names import check_name

    check_name(name)
    uri = typed or default_uri(home)
    check_tracking(uri)
    return uri


def export(
    source: Source,
    out: Path,
    format_name: str = CHECKPOINT,
    *,
    again: bool = False,
    gpus: float = 0.0,
    on_stage: Stage = lambda text: None,
) -> Exported:
    """Write a candidate in a format; nothing is left behind unless it was proved.

    Args:
        source: from :func:`source_of`.
        out: a directory that does not exist yet, or is empty.
        format_name: one of the table's.
        again: train it again instead of taking what was kept.
        gpus: for that; 0 computes on the CPU.
        on_stage: told in words what is being done.

    Raises:
        AutoPruneError: the format is unknown or cannot hold it, its libraries are missing, the
            output cannot be used, or the proof failed.
    """
    from autoprune.models.output import check_output_dir, scratch_prefix, sweep

    target = check_output_dir(out)
    found = find_format(format_name)
    if found is None:
        made = _made(source, target, again, gpus, on_stage)
        return Exported(target, CHECKPOINT, _size(target), (proof_line(made),), applied=made)
    if (outline := _outline(source)) is not None:
        found.check(outline)
    if not again and source.weights is not None and source.weights.is_dir():
        return _converted(found, source.weights, target, on_stage)
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=scratch_prefix(target)) as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        made = _made(source, checkpoint, again, gpus, on_stage)
        if outline is None:
            found.check(_checkpoint_outline(source.name, checkpoint))
        return _converted(found, checkpoint, target, on_stage, made)


def proof_line(made: Applied) -> str:
    """Return what the reload of a checkpoint proved, in words."""
    proof = made.proof
    return (
        f"reloaded in a fresh process by stock transformers: logits differ by at most "
        f"{proof.max_abs_diff:.1e} of {proof.scale:.3g}, no weight missing or left over"
    )


def _made(source: Source, out: Path, again: bool, gpus: float, on_stage: Stage) -> Applied:
    if again:
        return rebuild(source, out, gpus=gpus, on_stage=on_stage)
    return apply_kept(source, out, on_stage)


def _converted(
    found: Format, checkpoint: Path, target: Path, on_stage: Stage, made: Applied | None = None
) -> Exported:
    """Convert a checkpoint beside its place, put the card there, and move all of it."""
    from autoprune.models.output import written_whole

    card = read_card(checkpoint)
    with written_whole(target) as work:
        written = found.write(checkpoint, work, on_stage)
        for name, text in card.files(written.loading).items():
            (work / name).write_text(text, encoding="utf-8")
    return Exported(
        target, found.name, _size(target), written.proved, written.figures, applied=made
    )


def _outline(source: Source) -> Outline | None:
    """Return what is known of a model before it is made; None: nothing but knobs is known."""
    if source.candidate is None:
        return None
    if source.weights is not None and source.weights.is_dir():
        return _checkpoint_outline(source.name, source.weights)
    from autoprune.deploy.apply import inspect_dense
    from autoprune.pruning.surgery import pruned_config

    dense = inspect_dense(source)
    config = pruned_config(dense.config, source.candidate.plan)
    return Outline(source.name, config, source.candidate.precision, dense.directory)


def _checkpoint_outline(name: str, directory: Path) -> Outline:
    from autoprune.models.loading import inspect_model

    found = inspect_model(directory)
    return Outline(name, found.config, found.quantised or found.dtype, directory)


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
