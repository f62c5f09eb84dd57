"""From a candidate to a checkpoint: kept weights or a rebuild, a card, and a proven reload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from autoprune.deploy.card import MADE_HERE, Dense, Facts, card_files
from autoprune.deploy.readme import Loading
from autoprune.deploy.source import KeptScores, Source, metrics_of
from autoprune.errors import AutoPruneError

if TYPE_CHECKING:
    from autoprune.models.loading import Inspected
    from autoprune.models.proof import ReloadProof
    from autoprune.pipeline.candidate import Candidate
    from autoprune.pipeline.run import CandidateRun

Stage = Callable[[str], None]


@dataclass(frozen=True)
class Difference:
    """A rebuilt model beside the one that was kept.

    Attributes:
        split: whose questions both were asked.
        kept, rebuilt: retention of each.
        largest_score: largest difference of a task's score.
        largest_weight: largest difference of a weight, where the kept weights are at hand.
    """

    split: str
    kept: float | None
    rebuilt: float | None
    largest_score: float
    largest_weight: float | None


@dataclass(frozen=True)
class Applied:
    """A checkpoint that was written and proved to reload.

    Attributes:
        path: where it stands.
        params: its parameters.
        fraction: share of the whole dense model.
        stored: bytes of its weights.
        stored_fraction: share of the dense model's in the precision it is worked with.
        precision: of its weights.
        left: linear layers of the backbone that a quantised precision could not take.
        retention: of these weights, where known.
        proof: of the reload.
        difference: to the kept model, after a rebuild that had one to compare with.
    """

    path: Path
    params: int
    fraction: float
    stored: int
    stored_fraction: float
    precision: str
    left: tuple[str, ...]
    retention: float | None
    proof: ReloadProof
    difference: Difference | None = None


def apply_kept(source: Source, out: Path, on_stage: Stage = lambda text: None) -> Applied:
    """Write the kept recovered weights of a candidate as a checkpoint.

    Raises:
        AutoPruneError: no weights were kept, or the output cannot be used.
    """
    from autoprune.models.checkpoint import check_output_dir

    check_output_dir(out)
    if source.candidate is None or source.weights is None:
        raise AutoPruneError(
            f"no weights of {source.name} were kept: --rebuild trains it again, or choose one that "
            f"'autoprune front {source.settings.name}' lists"
        )
    from autoprune.models.arrays import from_arrays
    from autoprune.pruning.surgery import pruned_config
    from autoprune.resources import suited_threads

    dense = inspect_dense(source)
    on_stage("load the kept weights")
    config = pruned_config(dense.config, source.candidate.plan)
    model = from_arrays(config, _arrays(source.weights))
    _carry_generation(model, dense.directory)
    kept = source.kept
    if kept is None or kept.split != "confirm":  # its confirmation was not written down
        kept = KeptScores("confirm", {}, None, None)
    with suited_threads(sum(tensor.numel() for tensor in model.parameters())):
        return _save(
            model, source, source.candidate, dense, kept, source.dense_scores, out, on_stage
        )


def rebuild(
    source: Source, out: Path, *, gpus: float = 0.0, on_stage: Stage = lambda text: None
) -> Applied:
    """Prune and recover a candidate again, score it, and write the result as a checkpoint.

    Raises:
        AutoPruneError: the dense model is another one by now, or the output cannot be used.
    """
    from autoprune.models.arrays import state_arrays
    from autoprune.models.checkpoint import check_output_dir
    from autoprune.models.quantise import dequantise

    check_output_dir(out)
    dense = inspect_dense(source)

    from autoprune.pipeline.run import Bench
    from autoprune.resources import Resources
    from autoprune.search.problem import PipelineProblem
    from autoprune.search.trial.bench import TrialBench

    settings = source.settings
    prepared = PipelineProblem().prepare(settings, source.space, on_stage)
    # The threads of a trial: with others the sums would round otherwise.
    bench = Bench(prepared.assets, Resources(cpus=settings.cpus_per_trial, gpus=gpus))
    candidate = source.candidate
    if candidate is None:
        tools = TrialBench(bench, prepared.work)
        try:
            candidate = tools.candidate(source.knobs, source.seed, source.layout, source.plan)
        except AutoPruneError as error:
            raise AutoPruneError(f"{source.name} cannot be built again: {error}") from None
    on_stage(f"prune and recover {source.name}: {candidate.recipe.sample_passes:,} samples")
    run = bench.start(candidate)
    run.rung(1.0, split=None)
    made = _score(run, "confirm")
    again = None
    if source.kept is not None:
        again = made if source.kept.split == "confirm" else _score(run, source.kept.split)
    model = run.finish()
    # Kept weights are not quantised; those of a checkpoint are as they were written.
    weights = state_arrays(model) if source.weights is None or source.weights.is_file() else None
    exam = prepared.assets.exams["confirm"]
    applied = _save(model, source, candidate, dense, made, exam.dense.by_task, out, on_stage)
    if again is None:
        return applied
    if weights is None:
        weights = state_arrays(dequantise(model))
    return replace(applied, difference=_difference(source, again, weights))


def _score(run: CandidateRun, split: str) -> KeptScores:
    """Score a run as it stands on a split."""
    from autoprune.evaluation.retention import retention

    scores = run.score(split)
    found = retention(scores, run.assets.exams[split].dense)
    return KeptScores(split, scores.by_task, found.value, found.raw, metrics_of(scores))


def inspect_dense(source: Source) -> Inspected:
    """Check the dense model, and that it is the one that the candidate was cut from."""
    from autoprune.pipeline.prepare import inspect

    dense = inspect(source.settings.model)
    if source.dense_identity not in (None, dense.identity):
        raise AutoPruneError(
            f"model {source.settings.model!r} is not the one that {source.name} was cut from: its "
            "weights or its configuration have changed since; put that one back"
        )
    return dense


def _facts(
    source: Source,
    candidate: Candidate,
    dense: Inspected,
    made: KeptScores,
    dense_scores: Mapping[str, float],
    left: tuple[str, ...],
) -> Facts:
    from autoprune.models.families import wrapper_of
    from autoprune.models.files import origin_of
    from autoprune.zoo import EMBEDDED

    hub = dense.ref != EMBEDDED and not Path(dense.ref).expanduser().exists()
    licence = dense.licence or (MADE_HERE if dense.ref == EMBEDDED else "other (none is stated)")
    return Facts(
        settings=source.settings,
        trial=source.trial,
        candidate=candidate,
        dense=Dense(
            dense.ref,
            dense.identity,
            licence,
            dense.spec,
            dense_scores,
            vision=wrapper_of(dense.config).projector is not None,
            hub=hub,
            base=dense.ref if hub else origin_of(dense.directory),
        ),
        split=made.split,
        scores=made.scores,
        metrics=made.metrics,
        retention=made.retention,
        retention_raw=made.retention_raw,
        point=source.point,
        versions={"autoprune": version("autoprune"), **source.versions},
        left=left,
    )


def _save(
    model: Any,
    source: Source,
    candidate: Candidate,
    dense: Inspected,
    made: KeptScores,
    dense_scores: Mapping[str, float],
    out: Path,
    on_stage: Stage,
) -> Applied:
    """Quantise a recovered model where its candidate says so, in place, and write it."""
    from autoprune.cost.bytes import dense_bytes, stored_bytes
    from autoprune.cost.parameters import size_of
    from autoprune.models.checkpoint import save_checkpoint
    from autoprune.models.families import wrapper_of
    from autoprune.models.loading import load_processor
    from autoprune.models.precision import PRECISIONS
    from autoprune.models.quantise import quantise

    left: tuple[str, ...] = ()
    if PRECISIONS[candidate.precision].storage is not None:
        on_stage(f"quantise the backbone to {candidate.precision}")
        left = quantise(model, candidate.precision).left
    facts = _facts(source, candidate, dense, made, dense_scores, left)
    on_stage("write the checkpoint, and reload it in a fresh process")
    processor = load_processor(dense.directory, wrapper_of(dense.config).projector is not None)
    card = card_files(facts, checkpoint_loading(model.config))
    saved = save_checkpoint(model, processor, out, card)
    size = size_of(dense.spec, candidate.plan)
    stored = stored_bytes(dense.spec, candidate.plan, candidate.precision)
    return Applied(
        path=saved.path,
        params=size.params,
        fraction=size.fraction,
        stored=stored,
        stored_fraction=stored / dense_bytes(dense.spec, candidate.precision),
        precision=candidate.precision,
        left=left,
        retention=facts.retention,
        proof=saved.proof,
    )


def checkpoint_loading(config: Any) -> Loading:
    """Return how a Hugging Face checkpoint of ``config`` is loaded, for its card."""
    from autoprune.models.checkpoint import how_to_load, records_shapes

    quantised = getattr(config, "quantization_config", None) is not None
    libraries = "torch, transformers and torchao" if quantised else "torch and transformers"
    brings = "It brings the code that builds them. " if records_shapes(config) else ""
    return Loading(
        format="hf",
        library="transformers",
        needs=f"{brings}{libraries[0].upper()}{libraries[1:]} are enough; AutoPrune is not needed. "
        "`directory` is this folder.",
        code=how_to_load(config),
        notes=(
            "Before it was written it was loaded in a fresh process, and its logits, its answers "
            "and its processor compared.",
        ),
    )


def _carry_generation(model: Any, directory: Path) -> None:
    """Give the model the dense model's generation settings, where it has a file of them."""
    from autoprune.models.files import generation_settings

    settings = generation_settings(directory)
    if settings is not None:
        model.generation_config = settings


def _difference(source: Source, again: KeptScores, weights: Mapping[str, np.ndarray]) -> Difference:
    """Compare a rebuilt model with the one that was kept, as far as that is known."""
    assert source.kept is not None
    before = source.kept.scores
    largest = None
    if source.weights is not None:
        kept = _arrays(source.weights)
        if kept.keys() == weights.keys():
            largest = max(_largest(kept[name], weights[name]) for name in weights)
    return Difference(
        split=again.split,
        kept=source.kept.retention,
        rebuilt=again.retention,
        largest_score=max(abs(score - before[task]) for task, score in again.scores.items()),
        largest_weight=largest,
    )


def _largest(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference of two arrays of weights, in whatever precision they are."""
    from autoprune.models.arrays import to_tensor

    apart = (to_tensor(one).float() - to_tensor(other).float()).abs()
    return float(apart.max()) if apart.numel() else 0.0


def _arrays(place: Path) -> dict[str, np.ndarray]:
    """Return the weights of a checkpoint directory (quantised: what they stand for), or a file."""
    if place.is_dir():
        from autoprune.models.arrays import state_arrays
        from autoprune.models.loading import load_model
        from autoprune.models.quantise import dequantise

        return state_arrays(dequantise(load_model(place).model))
    try:
        with np.load(place) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise AutoPruneError(
            f"{place} was damaged ({error}): remove it, then --rebuild trains it again"
        ) from None
