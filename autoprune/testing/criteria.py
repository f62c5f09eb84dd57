"""What every importance criterion keeps to."""

from __future__ import annotations

import dataclasses

import numpy as np

from autoprune.pruning.scores import Criterion, Importance
from autoprune.testing.toy import toy_importance, toy_spec

KINDS = ("groups", "channels", "heads")
_WEIGHTS = (0.0, 0.5, 1.0)


def check_criterion(criterion: Criterion) -> None:
    """Check an importance criterion on made-up measurements.

    It returns one finite number of at least 0 for each unit, ``float64 [L, units]``; says the same
    twice; leaves what it is given alone; ranks the units of a layer among each other; and goes
    without units that a narrower layer lacks, and without a modality that no sample had.

    Raises:
        AssertionError: naming the promise that is broken.
    """
    spec = toy_spec(layers=4, heads=8, groups=4, channels=12, outside=1000)
    importance = toy_importance(spec)
    units = {name: getattr(importance, f"magnitude_{name}").shape for name in KINDS}
    _freeze(importance)
    for kind in KINDS:
        for weight in _WEIGHTS:
            found = criterion(importance, kind, weight)
            where = f"{kind} at text weight {weight:g}"
            assert isinstance(found, np.ndarray), f"{where}: no array but {type(found).__name__}"
            assert found.shape == units[kind], f"{where}: {found.shape}, and not {units[kind]}"
            assert found.dtype == np.float64, f"{where}: {found.dtype}, and not float64"
            assert np.isfinite(found).all(), f"{where}: not finite"
            assert (found >= 0).all(), f"{where}: below 0"
            again = criterion(importance, kind, weight)
            assert np.array_equal(found, again), f"{where}: another value the second time"
            assert np.ptp(found, axis=1).min() > 0, f"{where}: all units of a layer are alike"
    narrow = _without_last(importance)
    for kind in KINDS:
        found = criterion(narrow, kind, 0.5)
        assert np.isnan(found[-1, -1]), f"{kind}: a number for a unit that a narrower layer lacks"
        assert np.isfinite(found[:-1]).all(), f"{kind}: one missing unit spoils other layers"
    blind = _without_images(importance)
    for kind in KINDS:
        found = criterion(blind, kind, 0.5)
        assert np.isfinite(found).all(), f"{kind}: not finite where no sample had an image"


def _freeze(importance: Importance) -> None:
    for field in dataclasses.fields(importance):
        value = getattr(importance, field.name)
        if isinstance(value, np.ndarray):
            value.setflags(write=False)


def _without_last(importance: Importance) -> Importance:
    """Return it with NaN for the last unit of each kind in the last layer."""
    changed = {}
    for field in dataclasses.fields(importance):
        if field.name.endswith(KINDS):
            values = np.array(getattr(importance, field.name))
            values[-1, -1] = np.nan
            changed[field.name] = values
    return dataclasses.replace(importance, **changed)  # type: ignore[arg-type]


def _without_images(importance: Importance) -> Importance:
    """Return it as measured on text alone."""
    changed = {}
    for field in dataclasses.fields(importance):
        values = getattr(importance, field.name)
        if isinstance(values, np.ndarray) and values.ndim and values.shape[-1] == 2:
            changed[field.name] = np.array(values)
            changed[field.name][..., 0] = np.nan
    return dataclasses.replace(importance, **changed)  # type: ignore[arg-type]
