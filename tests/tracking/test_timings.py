"""What is said of a token's measured time: how far off the model was, what is over its bound."""

from __future__ import annotations

import pytest
from rich.console import Console
from tracking_fakes import fake_summary

from autoprune.tracking.interactive import point_text
from autoprune.tracking.naming import point_metrics
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.terms import Running
from autoprune.tracking.records.timing import Timing
from autoprune.tracking.report import figures, front_table
from autoprune.tracking.terminal import front_table as terminal_table
from autoprune.tracking.timings import over_budget, timed, timing_text, timings

MACHINE = "a-processor, 1 thread"
MODELLED = 0.010


def measured(*seconds: float, bound: float | None = None) -> SearchSummary:
    """A search whose front has these measured times, all modelled alike."""
    summary = fake_summary()
    points = tuple(
        point.model_copy(
            update={
                "latency": MODELLED,
                "latency_kind": "modelled",
                "measured": Timing(seconds=taken, low=0.9 * taken, high=1.1 * taken),
            }
        )
        for point, taken in zip(summary.front, seconds, strict=False)
    )
    running = Running(
        context=64,
        images=0,
        image_tokens=0,
        device="here",
        latency_kind="modelled",
        machine=MACHINE,
    )
    return summary.model_copy(
        update={
            "points": points,
            "baselines": (),
            "running": running,
            "dense": summary.dense.model_copy(
                update={"latency": 0.02, "measured": Timing(seconds=0.03, low=0.02, high=0.04)}
            ),
            "budget": summary.budget.model_copy(update={"latency": bound}),
        }
    )


def test_a_search_that_measured_nothing_says_nothing() -> None:
    summary = fake_summary()
    assert timings(summary) == []
    assert timed(summary) == ()
    columns, rows = front_table(summary)
    assert all(row[columns.index("measured seconds a token")] is None for row in rows)


@pytest.mark.parametrize(
    ("seconds", "bound", "said"),
    [
        ((0.0125, 0.0125), None, ["-20% off in the median, -20% at worst"]),
        ((0.010, 0.008), None, ["+12% off in the median, +25% at worst"]),
        ((0.010, 0.011), 0.012, ["-5% off", "every point of the front keeps to 12ms a token"]),
        (
            (0.010, 0.020),
            0.012,
            [
                "-25% off",
                "Over the 12ms a token that was asked for, as measured: trial {1} takes 20ms "
                "[18ms, 22ms] (modelled 10ms). The model said less: a search with --budget "
                "6ms-latency leaves room for that",
            ],
        ),
        # Over in the median, but not beyond its interval.
        ((0.0125, 0.010), 0.012, ["-10% off", "measures again"]),
    ],
)
def test_what_was_measured_is_said(
    seconds: tuple[float, ...], bound: float | None, said: list[str]
) -> None:
    summary = measured(*seconds, bound=bound)
    trials = [point.trial for point in summary.points]
    lines = timings(summary)
    assert len(lines) == len(said)
    for line, part in zip(lines, said, strict=True):
        assert part.format(*trials) in line
    assert f"measured on {MACHINE}" in lines[0]
    assert figures(summary)[-len(lines) :] == lines
    over = {point.trial for point in summary.points if over_budget(summary, point)}
    most = bound or 1.0
    assert over == {t for t, taken in zip(trials, seconds, strict=True) if taken > most}


@pytest.mark.parametrize(("wide", "columns"), [(False, 1), (True, 2)])
def test_the_front_shows_what_was_measured(wide: bool, columns: int) -> None:
    summary = measured(0.013, 0.021, bound=0.02)
    console = Console(width=160 if wide else 80, force_terminal=False)
    with console.capture() as shown:
        console.print(terminal_table(summary, wide=wide))
    text = " ".join(shown.get().split())
    assert "13ms" in text
    assert ("10ms" in text) == (columns == 2)
    assert f"30ms a token measured, at 64 tokens of text on {MACHINE}" in text
    assert "over" in text


def test_each_place_has_the_measured_time() -> None:
    summary = measured(0.0125, 0.020)
    point = summary.points[0]
    assert point.measured is not None
    assert timing_text(point.measured) == "12.5ms [11.3ms, 13.8ms]"
    assert "a token: 10ms modelled, 12.5ms [11.3ms, 13.8ms] measured" in point_text(point)
    assert point_metrics(point)["latency/measured_seconds"] == 0.0125
    columns, rows = front_table(summary)
    assert rows[0][columns.index("measured seconds a token")] == 0.0125
    assert SearchSummary.from_json(summary.to_json()) == summary
