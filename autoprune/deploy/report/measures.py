"""What a search measured of itself: how its early looks ranked, and how its forecast held."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.deploy.report.model import Rung, Stage
from autoprune.deploy.report.words import counted
from autoprune.tracking.records.summary import RungRecord, StageRecord
from autoprune.tracking.units import duration


def rungs(records: Sequence[RungRecord]) -> tuple[Rung, ...]:
    """Return how well each look ranked trials, in words."""
    shown = []
    for rung in records:
        known = rung.correlation is not None and rung.low is not None and rung.high is not None
        few = f"{counted(rung.trials, 'trial')}: too few to say"
        bins = counted(rung.bins, "bin") + " of size"
        said = f"{counted(rung.trials, 'trial')} in {bins}" if known else few
        how = "by that" if known else "as it began"
        shown.append(
            Rung(
                at="after the cut" if rung.share == 0 else f"at {rung.share:.0%} of recovery",
                correlation=rung.correlation if known else None,
                low=rung.low if known else None,
                high=rung.high if known else None,
                trials=rung.trials,
                said=said,
                stops=f"stops the last {rung.stops:.0%}, {how}" if rung.stops else "stops none",
            )
        )
    return tuple(shown)


NAMES = {"prepare": "Preparation", "trials": "Trials", "confirm": "Confirmation"}


def stages(records: Sequence[StageRecord]) -> tuple[Stage, ...]:
    """Return each stage's forecast and fact, and all together where there are several."""
    rows = [*records]
    if len(rows) > 1:
        said = [row.forecast for row in rows if row.forecast is not None]
        rows.append(
            StageRecord(
                stage="all",
                forecast=sum(said) if len(said) == len(rows) else None,
                seconds=sum(row.seconds for row in rows),
            )
        )
    return tuple(
        Stage(
            name=NAMES.get(row.stage, row.stage.capitalize()),
            seconds=row.seconds,
            forecast=row.forecast,
            taken_text=duration(row.seconds),
            forecast_text="no forecast" if row.forecast is None else duration(row.forecast),
            verdict=_met(row),
        )
        for row in rows
    )


def _met(row: StageRecord) -> str:
    if not row.forecast:
        return ""
    off = row.seconds / row.forecast - 1
    if abs(off) < 0.005:
        return "as said"
    how = "longer" if off > 0 else "shorter"
    return f"{abs(off):.0%} {how} than said"
