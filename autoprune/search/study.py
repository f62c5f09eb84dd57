"""The Optuna study of a search: ask, tell once, and reconcile after a kill.

Objectives: share of the dense model kept, in parameters, bytes or memory (less is better), share of
its latency where that counts (less), and retention (more is better). Every Optuna trial carries
our trial number as user attribute ``trial``. Our own records are the truth; the study is what the
sampler reads, and it is brought into line when a search goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.search.fidelity.predictor import Finished, Predictor
from autoprune.search.knobs.table import Value
from autoprune.search.records.storage import open_storage
from autoprune.search.sampling.refine import REFINE
from autoprune.search.sampling.samplers import Sampler, derived_seed, make_sampler
from autoprune.tracking.records.costs import share_in, split_objective
from autoprune.tracking.records.trial import TrialRecord

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

TRIAL, ORIGIN, REASON, PREDICTED, FIDELITY = "trial", "origin", "reason", "predicted", "fidelity"
"""User attributes of an Optuna trial."""

FLOORS = "floors"
"""Name of the constraint that holds results to the floors."""

FACTS, FROM = "facts", "from"
"""User attributes of a study, and of a trial that another search ran."""


@dataclass(frozen=True)
class Told:
    """A result of another search: its name and trial, knobs, size kept and retention.

    ``violation`` is by how much it was below the floors, which both searches share; ``latency``
    is the share of the dense model's, where that is an objective.
    """

    key: str
    knobs: Mapping[str, Value]
    size: float
    retention: float
    violation: float = 0.0
    latency: float | None = None


class SearchStudy:
    """Ask/tell over an Optuna study.

    Each proposal comes from a sampler seeded by (seed, trial number) that reads the study:
    a search that was killed and resumed proposes what it would have proposed.

    Args:
        storage: from ``storage.open_storage``.
        name: of the study.
        distributions: the sampled knobs.
        sampler: a key of ``SAMPLERS``, or a row of it.
        seed: of the search.
        trials: of the search in all.
        objective: the unit of sizes, with ``+latency`` behind it where latency counts too.
        cells: the configurations that a sampler which walks goes through, by trial number.
        floors: whether results are held to floors: then every complete trial says by how much it
            is below them, which samplers take as a constraint.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        distributions: Mapping[str, BaseDistribution],
        sampler: str | Sampler,
        seed: int,
        trials: int,
        objective: str = "params",
        cells: Sequence[Mapping[str, Value]] = (),
        floors: bool = False,
    ) -> None:
        import optuna

        self.distributions = dict(distributions)
        self.predictor = Predictor()
        self._sampler, self._seed, self._trials = sampler, seed, trials
        self._objective = objective
        self._timed = split_objective(objective)[1]
        self._cells = cells
        self._floors = floors
        self._deferred: dict[int, tuple[float, int, float, float, float | None]] = {}
        costs: list[Any] = ["minimize"] * (2 if self._timed else 1)
        self._study: optuna.Study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=[*costs, "maximize"],
            sampler=make_sampler("random", seed, trials),
            load_if_exists=True,
        )
        self._numbers: dict[int, int] = {}  # our number -> Optuna's
        for trial in self._study.get_trials(deepcopy=False):
            if TRIAL in trial.user_attrs:
                self._numbers[int(trial.user_attrs[TRIAL])] = trial.number

    # ---- ask

    def ask(self, number: int) -> dict[str, Value]:
        """Return the sampler's knobs for trial ``number``."""
        if self._cells:
            self.enqueue(number, self._cells[number], "sampler")
            return dict(self._cells[number])
        self._study.sampler = make_sampler(
            self._sampler, derived_seed(self._seed, number), self._trials
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self._study.ask(fixed_distributions=self.distributions)
        self._name(trial, number, "sampler")
        return dict(trial.params)

    def holds(self, knobs: Mapping[str, Value]) -> bool:
        """Say whether a configuration lies within the sampled space."""
        return all(
            name in knobs and contains(domain, knobs[name])
            for name, domain in self.distributions.items()
        )

    def enqueue(self, number: int, knobs: Mapping[str, Value], origin: str) -> None:
        """Start a given configuration as trial ``number``.

        The sampler learns from it only where it lies within the space (see ``holds``).
        """
        if not self.holds(knobs):
            return
        params = {name: snapped(d, knobs[name]) for name, d in self.distributions.items()}
        self._study.enqueue_trial(params)
        trial = self._study.ask(fixed_distributions=self.distributions)
        self._name(trial, number, origin)

    def _name(self, trial: optuna.Trial, number: int, origin: str) -> None:
        trial.set_user_attr(TRIAL, number)
        trial.set_user_attr(ORIGIN, origin)
        self._numbers[number] = trial.number

    # ---- what is known from elsewhere

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Keep what a later search on the same storage must know to learn from this one."""
        self._study.set_user_attr(FACTS, dict(facts))

    def learn(self, told: Sequence[Told]) -> None:
        """Add results of earlier searches, each once; they are nobody's trials here."""
        from optuna.trial import create_trial

        known = {trial.user_attrs.get(FROM) for trial in self._study.get_trials(deepcopy=False)}
        for row in told:
            if row.key in known or not self.holds(row.knobs):
                continue
            self._study.add_trial(
                create_trial(
                    params={n: snapped(d, row.knobs[n]) for n, d in self.distributions.items()},
                    distributions=dict(self.distributions),
                    values=list(self._values(row.size, row.retention, row.latency)),
                    user_attrs={FROM: row.key, FIDELITY: 1.0},
                    constraints={FLOORS: row.violation} if self._floors else None,
                )
            )

    # ---- tell

    def complete(
        self,
        number: int,
        size: float,
        retention: float,
        values: Mapping[int, float],
        violation: float = 0.0,
        *,
        latency: float | None = None,
    ) -> None:
        """Tell a trial of full fidelity.

        Args:
            number: of the trial.
            size: share of the whole model kept.
            retention: final.
            values: rung -> value, as in ``halving.Arrival``; the predictor learns from them.
            violation: by how much it is below the floors.
            latency: share of the dense model's, where that is an objective.
        """
        self.predictor.add(Finished(size, dict(values), retention))
        values_of = self._values(size, retention, latency)
        self._tell(number, values_of, {FIDELITY: 1.0}, violation=violation)
        self.settle()

    def _values(self, size: float, retention: float, latency: float | None) -> tuple[float, ...]:
        """Return what Optuna is told of a result, one value a direction."""
        if not self._timed:
            return (size, retention)
        return (size, 1.0 if latency is None else latency, retention)

    def stop(
        self,
        number: int,
        size: float,
        rung: int,
        value: float,
        violation: float = 0.0,
        *,
        latency: float | None = None,
    ) -> None:
        """Tell a stopped trial by its prediction, once there is ground for one.

        Until then it stays RUNNING to Optuna, which samplers take as not worth repeating.
        """
        self._deferred[number] = (size, rung, value, violation, latency)
        self.settle()

    def fail(self, number: int, reason: str) -> None:
        """Tell a failed trial."""
        self._tell(number, None, {REASON: reason[:500]})

    def settle(self, final: bool = False) -> None:
        """Tell the stopped trials that a prediction can be made for.

        Args:
            final: tell the others too, as pruned and without values.
        """
        for number, (size, rung, value, violation, latency) in list(self._deferred.items()):
            if self.predictor.ready(size):
                guess = self.predictor.predict(size, rung, value)
                attrs = {PREDICTED: guess, FIDELITY: 0.0}
                self._tell(number, self._values(size, guess, latency), attrs, violation=violation)
            elif final:
                self._tell(number, None, {FIDELITY: 0.0}, pruned=True)
            else:
                continue
            del self._deferred[number]

    def _tell(
        self,
        number: int,
        values: tuple[float, ...] | None,
        attrs: Mapping[str, Any],
        pruned: bool = False,
        violation: float = 0.0,
    ) -> None:
        from optuna.trial import Trial, TrialState

        if number not in self._numbers:  # a baseline outside the space, or a refined trial
            return
        theirs = self._numbers[number]
        frozen = self._study.get_trials(deepcopy=False)[theirs]
        if frozen.state.is_finished():
            return
        trial = Trial(self._study, frozen._trial_id)
        for name, value in attrs.items():
            trial.set_user_attr(name, value)
        if self._floors and values is not None:
            trial.set_constraint(FLOORS, violation)
        state = TrialState.COMPLETE if values is not None else TrialState.FAIL
        self._study.tell(
            theirs,
            values=list(values) if values is not None else None,
            state=TrialState.PRUNED if pruned else state,
            skip_if_finished=True,
        )

    # ---- after a kill

    def reconcile(self, records: Mapping[int, TrialRecord], rungs: Rungs) -> None:
        """Bring the study into line with the records of a search that goes on.

        Ended trials that the study has not heard of are told or added; running ones are kept;
        Optuna trials that no record speaks of are failed. Refined trials stay out: no knobs say
        what they are.

        Args:
            records: by trial number.
            rungs: trial number -> rung -> value, as the records have them.
        """
        from optuna.trial import TrialState

        for frozen in self._study.get_trials(deepcopy=False):
            mine = frozen.user_attrs.get(TRIAL)
            if frozen.state == TrialState.RUNNING and (mine is None or int(mine) not in records):
                self._study.tell(frozen.number, state=TrialState.FAIL)
                self._numbers.pop(int(mine) if mine is not None else -1, None)
        while self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            orphan = self._study.ask()
            self._study.tell(orphan, state=TrialState.FAIL)
        for number, record in sorted(records.items()):
            if number not in self._numbers and record.origin != REFINE:
                self._adopt(number, record)
            values = rungs.get(number, {})
            size = share_in(record, self._objective)
            if size is None:
                if record.state == "failed":
                    self.fail(number, record.reason)
                continue
            if record.state == "complete" and record.retention is not None:
                self.predictor.add(Finished(size, dict(values), record.retention))
                values_of = self._values(size, record.retention, record.latency_fraction)
                self._tell(number, values_of, {FIDELITY: 1.0}, violation=record.violation)
            elif record.state == "stopped" and record.rung in values:
                if not self._finished(number):
                    self._deferred[number] = (
                        size,
                        record.rung,
                        values[record.rung],
                        record.violation,
                        record.latency_fraction,
                    )
            elif record.state == "failed":
                self.fail(number, record.reason)
        self.settle()

    def _finished(self, number: int) -> bool:
        theirs = self._numbers.get(number)
        if theirs is None:
            return True
        return bool(self._study.get_trials(deepcopy=False)[theirs].state.is_finished())

    def _adopt(self, number: int, record: TrialRecord) -> None:
        """Bring a recorded trial into a study that does not know it (its journal was lost)."""
        self.enqueue(number, record.given, record.origin)

    def trials(self) -> list[FrozenTrial]:
        """Return what the study holds."""
        return self._study.get_trials(deepcopy=False)


Rungs = Mapping[int, Mapping[int, float]]
"""Trial number -> rung -> value."""


def snapped(domain: BaseDistribution, value: Value) -> Value:
    """Return the nearest value that a stepped range has; others are their own nearest.

    A configuration from elsewhere (a baseline, an earlier search) may lie between two steps. What
    is told of it is its own size, so that half a step in the knob misleads nobody.
    """
    step = getattr(domain, "step", None)
    if step is None or isinstance(value, (bool, str)):
        return value
    low, high = getattr(domain, "low"), getattr(domain, "high")  # noqa: B009
    near = min(high, max(low, low + round((value - low) / step) * step))
    return int(near) if isinstance(low, int) else float(near)


def contains(domain: BaseDistribution, value: Value) -> bool:
    """Say whether a distribution can give a value."""
    choices = getattr(domain, "choices", None)
    if choices is not None:
        return any(value == c and type(value) is type(c) for c in choices)
    if isinstance(value, (bool, str)):
        return False
    return bool(getattr(domain, "low") <= value <= getattr(domain, "high"))  # noqa: B009


def read_study(url: str, name: str) -> tuple[dict[str, Any], list[Told]] | None:
    """Return the facts and full results of a study on a storage; None if it is not there."""
    import optuna

    storage = open_storage(url, Path())
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None
    facts = study.user_attrs.get(FACTS)
    if facts is None:
        return None
    told = [
        Told(
            f"{name}:{trial.user_attrs[TRIAL]}",
            {**facts["fixed"], **trial.params},
            trial.values[0],
            trial.values[-1],
            max(0.0, trial.constraints.get(FLOORS, 0.0)),
            trial.values[1] if len(trial.values) > 2 else None,
        )
        for trial in study.get_trials(deepcopy=False)
        if trial.user_attrs.get(FIDELITY) == 1.0 and trial.user_attrs.get(ORIGIN, REFINE) != REFINE
    ]
    return dict(facts), told
