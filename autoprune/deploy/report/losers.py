"""The trials that are on no front, and why."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.deploy.report.charts import confirmed_of, size_named
from autoprune.deploy.report.model import Loser, Losers
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import TrialRecord


def losers(summary: SearchSummary, records: Sequence[TrialRecord]) -> tuple[Losers, ...]:
    """Return the trials that are on no front, by how they ended, and why."""
    confirmed = confirmed_of(summary)
    size = size_named(summary.objective)

    def rows(chosen: Sequence[TrialRecord], why: str = "") -> tuple[Loser, ...]:
        return tuple(
            Loser(
                trial=record.trial,
                axis=record.axis,
                size_text="" if (value := size.of(record)) is None else size.text(value),
                recovery=record.recovery,
                spent=f"{record.fidelity:.0%}",
                retention=record.retention,
                why=record.reason or why or "no reason was noted",
            )
            for record in chosen
        )

    def of(state: str) -> list[TrialRecord]:
        return [r for r in records if r.state == state and r.trial not in confirmed]

    short = {p.trial: p.shortfall for p in summary.points if p.missed}
    beaten = [p for p in summary.points if p.dominated and not p.missed]
    groups = (
        Losers(
            title="Failed",
            note="They raised an error, ran out of memory or gave no number.",
            rows=rows(of("failed")),
        ),
        Losers(
            title="Stopped early",
            note="At a look before their end they ranked too low among trials of their size. "
            "Their retention was taken then, and is not comparable.",
            rows=rows(of("stopped")),
        ),
        Losers(
            title="Ran to their end, not confirmed",
            note="Trials of the search's front, or close below it, are confirmed; these were not.",
            rows=rows(of("complete"), "below the front on the search's images"),
        )
        if confirmed
        else None,
        Losers(
            title="Below a floor",
            note="Confirmed, but they keep less of a task or capability than has to stay.",
            rows=tuple(
                row.model_copy(update={"why": short[row.trial]})
                for row in rows([r for r in records if r.trial in short])
            ),
        ),
        Losers(
            title="Confirmed, but beaten",
            note="Another point is no larger, and better beyond the interval of their paired "
            "difference.",
            rows=rows(
                [r for r in records if r.trial in {p.trial for p in beaten}],
                "beaten when confirmed",
            ),
        ),
        Losers(
            title="Not at their end",
            note="They were running when this page was made, or when the search was stopped.",
            rows=rows(of("running"), "it had not ended"),
        ),
    )
    return tuple(group for group in groups if group is not None and group.rows)
