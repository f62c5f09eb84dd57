"""One smaller model at a time, without a search: cut it, recover it, keep it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from autoprune.api.options import SearchOptions, settings_of
from autoprune.errors import AutoPruneError
from autoprune.search.settings import SearchSettings

if TYPE_CHECKING:
    from autoprune.models.checkpoint import Saved
    from autoprune.pipeline.candidate import Candidate
    from autoprune.pipeline.run import RungResult
    from autoprune.recovery.recipe import RecoveryRecipe
    from autoprune.search.trial.bench import TrialBench


@dataclass(frozen=True, eq=False)
class SmallerModel:
    """A model that was cut, and maybe recovered.

    Attributes:
        settings: model, tasks, data and budget that it was made with.
        candidate: its plan, recipe and precision.
        model: the transformers model; before the last step of a quantised precision.
        processor: its processor.
        recovered: whether its recovery has been run.
    """

    settings: SearchSettings
    candidate: Candidate
    model: Any
    processor: Any
    recovered: bool
    _tools: TrialBench

    @property
    def params(self) -> int:
        """Parameters of the whole model, tied ones once."""
        return self._tools.work.context.spec.params_of(self.candidate.plan.shapes)

    @property
    def fraction(self) -> float:
        """Share of the dense model's parameters that is kept."""
        return self.params / self._tools.work.context.spec.total_params

    def save(self, output: str | Path) -> Saved:
        """Write it as a Hugging Face checkpoint, quantised where its precision says so.

        It is proved in a fresh process before the directory appears; plan and recipe lie beside
        the weights.

        Args:
            output: a directory that does not exist yet, or is empty.

        Raises:
            AutoPruneError: if it cannot be written, or does not reload as it is.
        """
        from autoprune.models.checkpoint import save_checkpoint
        from autoprune.models.precision import PRECISIONS
        from autoprune.models.quantise import quantised_copy

        parts = self.candidate.to_dict()
        card = {f"{name}.json": json.dumps(parts[name], indent=1) for name in ("plan", "recipe")}
        model = self.model
        if PRECISIONS[self.candidate.precision].storage is not None:
            model = quantised_copy(model, self.candidate.precision)
        return save_checkpoint(model, self.processor, output, card)


def prune(
    *,
    knobs: Mapping[str, float | int | str | bool] | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
    **options: Unpack[SearchOptions],
) -> SmallerModel:
    """Cut a model to its budget by one configuration of knobs; it is not recovered yet.

    What a trial does before its recovery. Importance, features and the dense model's scores are
    measured once and kept under ``home``, as a search does.

    Args:
        knobs: of ``search_spaces``; what is left out has its default, a width and depth cut to the
            budget, by importance.
        on_stage: told what begins.
        options: of a search: ``model``, ``budget`` and the like. Options of how to search have
            no part in it.

    Raises:
        AutoPruneError: for bad input, before any work.
    """
    from autoprune.pipeline.run import Bench
    from autoprune.search.knobs.space import load_space, with_precisions
    from autoprune.search.preflight import preflight
    from autoprune.search.problem import PipelineProblem
    from autoprune.search.trial.bench import TrialBench
    from autoprune.search.workers.session import resources_of

    settings = settings_of(options)
    if not isinstance(knobs or {}, Mapping):
        raise AutoPruneError(f"knobs {knobs!r} are no mapping: write them as {{'axis': 'width'}}")
    space = with_precisions(load_space(settings.space), settings.precisions)
    given = space.complete(dict(knobs or {}))
    preflight(settings)
    prepared = PipelineProblem().prepare(settings, space, on_stage)
    tools = TrialBench(Bench(prepared.assets, resources_of(settings)), prepared.work)
    candidate = tools.candidate(given, settings.seed)
    return SmallerModel(
        settings=settings,
        candidate=candidate,
        model=tools.bench.prune(candidate.plan, candidate.precision),
        processor=prepared.assets.processor,
        recovered=False,
        _tools=tools,
    )


def recover(
    pruned: SmallerModel,
    *,
    recipe: RecoveryRecipe | None = None,
    on_rung: Callable[[RungResult], None] | None = None,
) -> SmallerModel:
    """Recover a model that was cut, from the dense weights that its plan keeps.

    Args:
        pruned: from :func:`prune`; it is left as it is.
        recipe: losses, scope, data and passes; by default that of its knobs.
        on_rung: told what the model scores on the ``search`` split when its recovery is done, with
            losses and times; without it nothing is scored.

    Raises:
        AutoPruneError: for a model that is recovered already.
        RecoveryDiverged: if the loss leaves the finite numbers.
    """
    if not isinstance(pruned, SmallerModel):
        raise AutoPruneError(f"{pruned!r} is no pruned model: give what autoprune.prune returned")
    if pruned.recovered:
        raise AutoPruneError(
            "this model is recovered already: prune it again, and recover it by the other recipe"
        )
    candidate = pruned.candidate
    if recipe is not None:
        candidate = replace(candidate, recipe=recipe)
    run = pruned._tools.bench.start(candidate)
    result = run.rung(1.0, split=None if on_rung is None else "search")
    if on_rung is not None:
        on_rung(result)
    return replace(pruned, candidate=candidate, model=run.finish(), recovered=True)
