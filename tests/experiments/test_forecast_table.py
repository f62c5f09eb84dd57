"""Forecast and fact of a search, as they stand in a table."""

from __future__ import annotations

from experiments.forecast.run import lines


def test_forecast_and_fact_are_summed_over_stages() -> None:
    stages = [
        {"stage": "prepare", "forecast": 10.0, "seconds": 20.0},
        {"stage": "trials", "forecast": 50.0, "seconds": 60.0},
    ]
    assert lines([{"key": "a", "trials": 12, "workers": 2, "stages": stages}]) == [
        {
            "trials": 12,
            "workers": 2,
            "forecast, s": 60,
            "took, s": 80,
            "forecast − took": "-25%",
            "prepare, s": "10 → 20",
            "trials, s": "50 → 60",
        }
    ]
