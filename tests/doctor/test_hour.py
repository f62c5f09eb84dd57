"""How much fits into an hour: the line through two forecasts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.machines import GIB, WELL

from autoprune.doctor.hour import fits
from autoprune.doctor.workers import suited_workers
from autoprune.search.settings import SearchSettings, make_settings


@pytest.mark.parametrize(
    ("prepare", "trial", "confirm", "trials"),
    [
        (60, 10, 300, 320),  # 3240 s left are 324 trials
        (60, 100, 300, 32),
        (60, 1, 300, 3200),
        (4000, 10, 300, 0),
        (60, 0, 300, 0),  # a machine that takes no time cannot be told anything about
    ],
)
def test_trials_fill_what_preparation_and_confirmation_leave(
    prepare: float, trial: float, confirm: float, trials: int
) -> None:
    def forecast(settings: SearchSettings) -> tuple[float, ...]:
        return prepare, trial * settings.trials, confirm

    found = fits(make_settings({"workers": 3}), 3600, forecast)
    assert found.trials == trials
    assert found.trial == pytest.approx(trial)
    assert found.default == pytest.approx(prepare + 24 * trial + confirm)
    assert found.workers == 3


def test_workers_are_as_many_as_cores_and_memory_are_for(tmp_path: Path) -> None:
    settings = make_settings({"home": tmp_path})
    assert suited_workers(settings, WELL) == 8
    assert suited_workers(settings, replace(WELL, available=4 * GIB)) == 2
    assert suited_workers(settings, replace(WELL, available=0)) == 1
    assert suited_workers(settings, WELL, gpus=1) == 1
