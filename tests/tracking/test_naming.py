from __future__ import annotations

from tracking_fakes import fake_summary

from autoprune.tracking.naming import summary_metrics
from autoprune.tracking.records.summary import RungRecord, SearchSummary, StageRecord


def test_rungs_and_forecasts_are_metrics_of_the_search() -> None:
    rung = RungRecord(
        rung=1, share=0.33, trials=12, bins=2, correlation=0.5, low=-0.1, high=0.8, stops=0.31
    )
    untold = RungRecord(rung=0, share=0.0, trials=4, bins=1, stops=0.25)
    stages = (
        StageRecord(stage="prepare", forecast=40.0, seconds=45.0),
        StageRecord(stage="trials", seconds=118.0),
    )
    summary = fake_summary().model_copy(update={"rungs": (untold, rung), "stages": stages})
    found = summary_metrics(summary, [])
    assert found["rungs/1_correlation"] == 0.5
    assert (found["rungs/1_correlation_low"], found["rungs/1_correlation_high"]) == (-0.1, 0.8)
    assert found["rungs/1_stops"] == 0.31
    assert found["rungs/0_trials"] == 4
    assert "rungs/0_correlation" not in found
    assert (found["work/forecast_prepare"], found["work/seconds_prepare"]) == (40.0, 45.0)
    assert found["work/seconds_trials"] == 118.0
    assert "work/forecast_trials" not in found


def test_summaries_from_before_there_were_rungs_load() -> None:
    values = fake_summary().model_dump(mode="json")
    for name in ("rungs", "stages", "ended"):
        del values[name]
    assert SearchSummary.model_validate(values).rungs == ()
