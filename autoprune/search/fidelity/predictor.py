"""What a stopped trial would have reached, for the sampler only.

A sampler must hear of a stopped trial neither as measured (it is of low fidelity) nor not at
all (it would propose its like again). It hears a careful prediction that is always dominated
by a trial of full fidelity; the front never sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

MARGIN = 0.01
"""How far below what dominates it a predicted retention is held."""


@dataclass(frozen=True)
class Finished:
    """A trial of full fidelity: its size, the value at each rung it passed, the retention."""

    size: float
    values: dict[int, float]
    retention: float


@dataclass
class Predictor:
    """Predicts the final retention from the value at a rung.

    A ridge regression on (value, size) over the finished trials, less one standard deviation
    of its residuals, held below what the finished trials of no larger size have reached.
    """

    finished: list[Finished] = field(default_factory=list)

    def add(self, trial: Finished) -> None:
        """Learn from a trial of full fidelity."""
        self.finished.append(trial)

    def ready(self, size: float) -> bool:
        """Say whether a finished trial of no larger size is there to hold a prediction below."""
        return len(self.finished) >= 3 and any(f.size <= size for f in self.finished)

    def predict(self, size: float, rung: int, value: float) -> float:
        """Return the predicted final retention of a trial that was stopped at ``rung``.

        Only where ``ready``: the smallest of all sizes is on any front, whatever it retains.

        Args:
            size: share of the dense model kept, in the objective's unit.
            rung: index of its last rung.
            value: what it had there, as in ``halving.Arrival``.
        """
        known = [f for f in self.finished if rung in f.values]
        guess = min(f.retention for f in self.finished)
        if len(known) >= 4:
            guess = _ridge(known, rung, value, size)
        ceiling = max(f.retention for f in self.finished if f.size <= size) - MARGIN
        return min(guess, ceiling)


def _ridge(known: list[Finished], rung: int, value: float, size: float) -> float:
    x = np.array([[f.values[rung], f.size] for f in known])
    y = np.array([f.retention for f in known])
    mean, scale = x.mean(0), x.std(0)
    scale[scale == 0] = 1.0
    z = (x - mean) / scale
    weights = np.linalg.solve(z.T @ z + np.eye(2), z.T @ (y - y.mean()))
    residual = float(np.std(y - y.mean() - z @ weights))
    at = (np.array([value, size]) - mean) / scale
    return float(y.mean() + np.clip(at, -3, 3) @ weights) - residual
