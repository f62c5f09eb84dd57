"""What a report shows of a search, in every state it can be in, without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from deploy.report.report_fakes import EVIL, TASKS, cases, make_store

from autoprune.deploy.report.charts import charts_of, kinds_of, nice, offered, size_named
from autoprune.deploy.report.details import details_of, rows_of
from autoprune.deploy.report.gather import gather, unfinished
from autoprune.deploy.report.losers import losers
from autoprune.deploy.report.measures import stages
from autoprune.deploy.report.model import Report
from autoprune.deploy.report.page import render, write_page
from autoprune.deploy.report.words import found, tiles
from autoprune.errors import AutoPruneError
from autoprune.search.records.store import SearchStore
from autoprune.tracking.records.summary import SearchSummary, StageRecord
from autoprune.tracking.records.terms import Budget
from autoprune.tracking.records.timing import Timing
from autoprune.tracking.timings import timing_text

CASES = cases()


@pytest.mark.parametrize("case", CASES)
def test_every_state_has_a_page(case: str, tmp_path: Path) -> None:
    report = gather(make_store(tmp_path, case))
    assert Report.from_json(report.to_json()) == report
    page = render(report)
    assert report.found[0]
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "Undefined" not in page
    assert len(page) < 5_000_000
    data = json.loads(
        re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)[0]
    )
    assert set(map(int, data["details"])) == {one.trial for one in report.details}


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("whole", r"^With \d+\.\d% of its parameters, embedded keeps 0\.\d{3} \(0\.\d{3} to"),
        ("bytes", r"^With \d+\.\d% of its stored bytes"),
        ("no floor kept", r"^No point keeps the floors \(reading 0\.9\)\. Trial \d+ comes nearest"),
        ("nothing confirmed", r"nothing is confirmed yet"),
        ("unfinished", r"^So far, .* nothing is confirmed yet"),
        ("only stopped", r"no trial has run to its end"),
        ("only failures", r"all 3 trials failed"),
        ("nothing yet", r"no trial has started"),
    ],
)
def test_the_first_sentence_is_honest(case: str, says: str, tmp_path: Path) -> None:
    assert re.search(says, gather(make_store(tmp_path, case)).found[0])


def test_one_point_says_that_it_is_alone(tmp_path: Path) -> None:
    assert "the only point on the front" in " ".join(
        gather(make_store(tmp_path, "one point")).found
    )


def test_a_usual_recipe_may_be_the_best() -> None:
    summary, records = CASES["whole"]
    assert summary is not None
    best = summary.stairs[-1].model_copy(update={"baseline": "paper-depth"})
    points = tuple(best if p.trial == best.trial else p for p in summary.points)
    own = summary.model_copy(update={"points": points, "baselines": (best,)})
    assert f"Trial {best.trial} is itself a usual recipe, paper-depth." in found(
        own, records, "it", "finished"
    )
    notes = {tile.label: tile.note for tile in tiles(own, records, 24)}
    assert notes["points on the front"] == "1 by a tie; 0 usual recipes beside it"
    assert kinds_of(own, records)[best.trial] == "front"


def test_figures_are_those_of_the_summary(tmp_path: Path) -> None:
    summary, records = CASES["whole"]
    assert summary is not None
    report = gather(make_store(tmp_path))
    best = summary.stairs[-1]
    assert report.chosen == best.trial
    assert f"{best.retention.mean:.3f} ({best.retention.low:.3f} to" in report.found[0]
    assert [row.trial for row in report.rows] == [
        p.trial for p in summary.by_size((*summary.points, *summary.baselines))
    ]
    by_trial = {row.trial: row for row in report.rows}
    tied = next(p for p in summary.points if p.behind)
    assert by_trial[tied.trial].kind == "tied"
    assert by_trial[tied.trial].ties == ", ".join(map(str, tied.tied_with))
    assert {row.kind for row in report.rows} == {"front", "tied", "dominated", "baseline"}
    assert set(by_trial[best.trial].scores) == set(TASKS)
    detail = report.detail(best.trial)
    assert detail is not None
    assert detail.keep == next(r.keep for r in records if r.trial == best.trial)
    assert detail.command.startswith(f"autoprune export demo:{best.trial} --home ")
    assert all(score.dense == 0.95 for score in detail.scores)


def test_places_on_the_chart(tmp_path: Path) -> None:
    summary, records = CASES["whole"]
    assert summary is not None
    chart = charts_of(summary, records)[0]
    marks = {mark.trial: mark for mark in chart.marks}
    scored = {r.trial for r in records if r.retention is not None}
    assert marks.keys() == scored
    for point in (*summary.points, *summary.baselines):
        mark = marks[point.trial]
        assert 0 <= mark.x <= 1
        assert mark.low is not None
        assert mark.high is not None
        assert 0 <= mark.low < mark.y < mark.high <= 1
        assert f"{point.retention.mean:.3f}" in mark.says
    by_size = sorted(summary.points, key=lambda p: p.params)
    assert [marks[p.trial].x for p in by_size] == sorted(marks[p.trial].x for p in by_size)
    assert [x for x, _ in chart.stairs] == [marks[p.trial].x for p in summary.stairs]
    assert chart.budget is not None
    assert chart.dense is not None
    assert max(marks[p.trial].x for p in summary.points) <= chart.budget.at + 1e-9 < chart.dense.at
    assert chart.below == sum(not mark.inside for mark in chart.marks)


def test_the_axis_is_the_objective(tmp_path: Path) -> None:
    report = gather(make_store(tmp_path, "bytes"))
    assert [chart.key for chart in report.charts] == ["bytes", "params"]
    assert report.charts[0].title == "stored weights of the whole model (MiB)"
    assert report.extra == ("parameters",)
    assert report.rows[0].size_text.endswith("MiB")
    summary, records = CASES["nothing confirmed"]
    assert summary is not None
    alike = [r.model_copy(update={"precision": "float32"}) for r in records]
    assert [size.key for size in offered(summary, alike)] == ["params"]


def test_memory_and_latency_are_drawn_where_they_are_known() -> None:
    summary, records = CASES["memory, timed"]
    assert summary is not None
    assert [size.key for size in offered(summary, records)] == [
        "memory",
        "params",
        "bytes",
        "latency",
    ]
    memory, _, _, latency = charts_of(summary, records)
    assert memory.title == "memory in use (MiB)"
    assert latency.title == "modelled time a token (ms)"
    assert memory.note == latency.note == "For 1,024 tokens of text on a-device, modelled."
    assert memory.budget is not None
    assert memory.budget.text == "budget"
    assert latency.budget is None
    (row, *_) = rows_of(summary, kinds_of(summary, records), [size_named("latency")])
    point = summary.by_size((*summary.points, *summary.baselines))[0]
    assert row.trial == point.trial
    assert row.size == point.memory
    assert row.share == point.memory_fraction
    assert row.extra == (f"{1000 * (point.latency or 0):.3g}ms",)
    assert " of its memory" in found(summary, records, "it", "finished")[0]
    # Where latency counts as well, the front is no staircase of sizes: the best means are drawn.
    heights = [y for _, y in memory.stairs]
    on = {(mark.x, mark.y) for mark in memory.marks if mark.kind in ("front", "tied")}
    assert on.issuperset(memory.stairs)
    assert memory.stairs
    assert heights == sorted(heights)
    lost = summary.points[0].model_copy(update={"latency": None})
    some = summary.model_copy(update={"points": (lost, *summary.points[1:])})
    assert "latency" not in [size.key for size in offered(some, records)]


def test_a_dense_model_far_away_does_not_empty_the_chart() -> None:
    summary, records = CASES["whole"]
    assert summary is not None
    far = summary.dense.model_copy(update={"params": 40 * summary.dense.params})
    chart = charts_of(summary.model_copy(update={"dense": far}), records)[0]
    assert chart.dense_far
    assert chart.dense is not None
    assert chart.dense.at == 1.0
    spread = [m.x for m in chart.marks]
    assert max(spread) - min(spread) > 0.5


def test_an_unfinished_search_knows_its_dense_model_and_budget(tmp_path: Path) -> None:
    store = make_store(tmp_path, "unfinished")
    store.write("facts.json", json.dumps({"sizes": {"params": [700_000, 1_235_366]}}))
    (chart, *_) = gather(store).charts
    assert chart.dense is not None
    assert chart.dense.note == "2.06M"
    assert chart.budget is not None
    assert chart.budget.note == "1.24M"
    assert chart.stairs


@pytest.mark.parametrize("objective", ["bytes", "memory"])
def test_an_unfinished_search_over_bytes_knows_its_budget(objective: str, tmp_path: Path) -> None:
    store = make_store(tmp_path, "unfinished", objective=objective)
    # As a search writes them: sizes in bytes stand by their precision.
    sizes = {"params": [1, 2_000_000], "float32": [1, 7_000_000], "int8": [1, 3_000_000]}
    store.write("facts.json", json.dumps({"sizes": sizes}))
    so_far = unfinished(store, store.settings(), list(store.records().values()))
    assert so_far is not None
    assert so_far.size(so_far.budget) == 7_000_000
    assert so_far.budget.params == 2_000_000


def test_a_bound_beyond_the_dense_model_is_no_share_of_it(tmp_path: Path) -> None:
    store = make_store(tmp_path, "memory, timed")
    summary = store.summary()
    assert summary is not None
    assert ("At most, memory", "5.25MiB of 9.54MiB (55.0%)") in facts_of(store, summary)
    device = summary.budget.model_copy(update={"memory": 8 * 2**30})
    roomy = summary.model_copy(update={"budget": device})
    assert ("At most, memory", "8.00GiB; the dense model has 9.54MiB") in facts_of(store, roomy)


def facts_of(store: SearchStore, summary: SearchSummary) -> set[tuple[str, str]]:
    return {(fact.name, fact.value) for fact in gather(store, summary).budget}


def test_floors_and_capabilities(tmp_path: Path) -> None:
    report = gather(make_store(tmp_path, "floors"))
    assert report.capabilities == ("reading", "counting")
    kinds = [row.kind for row in report.rows]
    assert kinds.count("below") == 2
    below = next(row for row in report.rows if row.kind == "below")
    detail = report.detail(below.trial)
    assert detail is not None
    assert detail.verdict == "below reading by 0.031"
    assert [score.task for score in detail.capabilities] == ["reading", "counting"]
    assert report.verdicts[0] == "Every point of the front keeps the floors (reading 0.9)."
    assert ("At least, reading", "0.9 of the dense model's ability") in [
        (fact.name, fact.value) for fact in report.budget
    ]
    lost = next(group for group in report.losers if group.title == "Below a floor")
    assert {row.why for row in lost.rows} == {"below reading by 0.031"}
    assert below.trial not in [m.trial for m in report.charts[0].marks if m.kind == "front"]
    none = gather(make_store(tmp_path / "none", "no floor kept"))
    assert none.charts[0].stairs == ()
    chosen = none.detail(none.chosen if none.chosen is not None else -1)
    assert chosen is not None
    assert chosen.kind == "below"


def test_losers_say_why() -> None:
    summary, records = CASES["whole"]
    assert summary is not None
    groups = {group.title: group for group in losers(summary, records)}
    assert [row.why for row in groups["Failed"].rows] == [EVIL]
    assert {row.trial for row in groups["Stopped early"].rows} == {7, 10, 14, 17, 21}
    assert all(row.why == "dominated at rung 1" for row in groups["Stopped early"].rows)
    assert len(groups["Confirmed, but beaten"].rows) == 1
    told = {row.trial for group in groups.values() for row in group.rows}
    front = {p.trial for p in (*summary.front, *summary.baselines)}
    assert told | front == {r.trial for r in records}
    assert not told & front


def test_stages_say_how_far_the_forecast_was() -> None:
    rows = stages(
        [
            StageRecord(stage="prepare", forecast=40.0, seconds=20.0),
            StageRecord(stage="trials", forecast=60.0, seconds=90.0),
            StageRecord(stage="confirm", forecast=None, seconds=30.0),
        ]
    )
    assert [row.verdict for row in rows] == [
        "50% shorter than said",
        "50% longer than said",
        "",
        "",
    ]
    assert rows[-1].seconds == 140.0
    assert rows[-1].forecast is None


def test_text_cannot_end_the_page(tmp_path: Path) -> None:
    page = render(gather(make_store(tmp_path)))
    assert EVIL not in page
    assert "&lt;/script&gt;&lt;img" in page
    assert "\\u003c/script\\u003e\\u003cimg" in page


def test_no_server_or_password_is_sent_around(tmp_path: Path) -> None:
    secret = "postgresql://me:hunter2@db.example/studies"
    store = make_store(tmp_path, storage=secret, tracking_uri="http://me:hunter2@mlflow.example")
    page = render(gather(store))
    assert "hunter2" not in page
    assert ".example" not in page


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AutoPruneError, match="name another file by -o"):
        write_page(gather(make_store(tmp_path)), tmp_path / "file" / "report.html")


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.43, 1.04, ["0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]),
        (0.9, 1.0, ["0.90", "0.92", "0.94", "0.96", "0.98", "1.00"]),
        (-1.2, 1.0, ["-1.0", "-0.5", "0.0", "0.5", "1.0"]),
        (700, 1_300, ["800", "1,000", "1,200"]),
        (2.0, 2.0, ["2"]),
    ],
)
def test_round_values(low: float, high: float, texts: list[str]) -> None:
    found = nice(low, high, 7 if high <= 1.04 else 5)
    assert [text for _, text in found] == texts
    assert all(low - 1e-9 <= value <= high + 1e-9 for value, _ in found)


def test_sizes_in_words() -> None:
    assert size_named("latency").text(0.0123) == "12.3ms"
    assert size_named("memory").text(3 * 2**30) == "3.00GiB"
    assert size_named("bytes").of(Budget(text="60%", params=5, fraction=0.6)) is None


def test_what_was_measured_has_a_chart_of_its_own() -> None:
    summary, records = CASES["memory, timed"]
    assert summary is not None
    assert summary.running is not None

    def told(item: Any, seconds: float) -> Any:
        timing = Timing(seconds=seconds, low=0.9 * seconds, high=1.1 * seconds)
        return item.model_copy(update={"measured": timing})

    summary = summary.model_copy(
        update={
            "points": tuple(told(p, 2 * (p.latency or 0.0)) for p in summary.points),
            "baselines": tuple(told(p, 2 * (p.latency or 0.0)) for p in summary.baselines),
            "dense": told(summary.dense, 0.04),
            "running": summary.running.model_copy(update={"machine": "a-processor"}),
            "budget": summary.budget.model_copy(update={"latency": 0.02}),
        }
    )
    charts = {chart.key: chart for chart in charts_of(summary, records)}
    modelled, measured = charts["latency"], charts["measured_latency"]
    assert modelled.note.endswith("on a-device, modelled.")
    assert measured.note == "For 1,024 tokens of text on a-processor."
    # Trials that were not confirmed have no measured time.
    assert {m.trial for m in measured.marks} == {
        p.trial for p in (*summary.points, *summary.baselines)
    }
    assert measured.budget is not None
    assert measured.budget.note == "20ms"
    (one, *_) = details_of(summary, records, str)
    point = next(p for p in (*summary.points, *summary.baselines) if p.trial == one.trial)
    facts = {fact.name: fact.value for fact in one.facts}
    assert point.measured is not None
    assert facts["Measured latency"] == timing_text(point.measured)
    assert "Modelled latency" in facts
