"""A checkpoint on held-out rows of a user's data: what the search's confirmation found."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.user_data import digits

import autoprune
from autoprune.deploy.export import export_named
from autoprune.deploy.scoring import evaluate_command, score_model
from autoprune.errors import AutoPruneError
from autoprune.pipeline.run import Bench
from autoprune.resources import Resources
from autoprune.search.knobs.space import load_space
from autoprune.search.own_data import read_spec
from autoprune.search.problem import PipelineProblem
from autoprune.search.records.store import SearchStore, search_dir
from autoprune.search.settings import make_settings
from autoprune.search.trial.bench import TrialBench
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import TrialRecord


class Here:
    """Workers of one: this process."""

    def __init__(self, bench: TrialBench) -> None:
        self.bench = bench

    def run(
        self,
        function: Callable[[Any, Any], Any],
        payloads: Sequence[Any],
        on_done: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        results = [function(self.bench, work) for work in payloads]
        for index, result in enumerate(results):
            if on_done is not None:
                on_done(index, result)
        return results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("own")
    digits(place, 160)
    return place


@pytest.fixture(scope="module")
def confirmed(folder: Path) -> tuple[Path, SearchSummary]:
    """A search on the data whose one trial is confirmed by the code that confirms; its export."""
    settings = make_settings(
        {
            "name": "mine",
            "home": folder / "home",
            "data": (str(folder / "digits.json"),),
            "images": str(folder / "images"),
            "max_recovery_samples": 64,
            "confirm_seeds": 1,
        }
    )
    space = load_space(settings.space)
    prepared = PipelineProblem().prepare(settings, space, lambda text: None)
    assert prepared.confirm_share == 1.0  # 16 rows each, not 512 beside 384
    bench = TrialBench(Bench(prepared.assets, Resources()), prepared.work)
    knobs = space.complete({"axis": "width"})
    plan = bench.candidate(knobs, 0).plan
    params = prepared.assets.spec.params_of(plan.shapes)
    record = TrialRecord(
        trial=0,
        state="complete",
        knobs=knobs,
        params=params,
        fraction=params / prepared.assets.spec.total_params,
        backbone_removed=0.5,
        data_fraction=1.0,
        retention=0.5,
        fidelity=1.0,
    )
    store = SearchStore(search_dir(folder / "home", "mine"))
    store.open(settings)
    store.write_record(record)
    summary = prepared.finish([record], Here(bench), store, lambda done, total: None)
    store.write_summary(summary)
    export_named("mine:0", folder / "small", home=folder / "home")
    return folder / "small", summary


def test_an_exported_point_scores_as_it_was_confirmed(
    folder: Path, confirmed: tuple[Path, SearchSummary]
) -> None:
    out, summary = confirmed
    (point,) = summary.points
    data, images = folder / "digits.json", folder / "images"
    scored = autoprune.evaluate(out, data=data, images=images)
    assert scored.scores == point.scores
    assert scored.dense_scores == summary.dense.scores
    assert scored.split == "confirm"
    assert scored.retention is not None
    assert scored.interval is not None
    # One seed: both intervals are over the same images.
    assert scored.retention.value == pytest.approx(point.retention.mean)
    assert (scored.interval.low, scored.interval.high) == pytest.approx(
        (point.retention.low, point.retention.high)
    )
    assert scored.retention.value < 1
    command = f"autoprune evaluate {out} --data {data} --images {images}"
    assert evaluate_command(out) == command

    # Both splits that a search asks are other rows, and all are these together.
    counts = {}
    for split in ("search", "confirm", "all"):
        told: list[str] = []
        found = score_model(
            str(out), data=read_spec([str(data)], str(images)), split=split, on_stage=told.append
        )
        assert not [text for text in told if "recovered on other data" in text]
        counts[split] = (found.questions, found.scores["data_digits"])
    questions, right = counts["all"]
    assert questions == counts["search"][0] + counts["confirm"][0] == 32
    both = [counts[split][0] * counts[split][1] for split in ("search", "confirm")]
    assert questions * right == pytest.approx(sum(both))


def test_other_data_than_it_was_trained_on_is_said(
    folder: Path, confirmed: tuple[Path, SearchSummary]
) -> None:
    rows = json.loads((folder / "digits.json").read_text())
    (folder / "fewer.json").write_text(json.dumps(rows[:90]))
    told: list[str] = []
    score_model(
        str(confirmed[0]),
        data=read_spec([str(folder / "fewer.json")], str(folder / "images")),
        samples=2,
        on_stage=told.append,
    )
    assert [text for text in told if "was recovered on other data" in text]


def test_what_cannot_be_asked_is_refused(folder: Path) -> None:
    data, images = folder / "digits.json", folder / "images"
    with pytest.raises(AutoPruneError, match=r"--tasks digits_read and --data .* are two exams"):
        autoprune.evaluate("embedded", data=data, images=images, tasks="digits_read")
    with pytest.raises(AutoPruneError, match="unknown split 'report'"):
        autoprune.evaluate("embedded", data=data, images=images, split="report")
    with pytest.raises(AutoPruneError, match="--columns question=ask says how --data is read"):
        autoprune.evaluate("embedded", columns="question=ask")
    talk = [{"from": "human", "value": "what is it ?"}]
    long = [
        {"id": str(n), "conversations": [*talk, {"from": "gpt", "value": f"it is {n} of them all"}]}
        for n in range(90)
    ]
    (folder / "long.json").write_text(json.dumps(long))
    with pytest.raises(AutoPruneError, match=r"most answers of long have more than .*name --tasks"):
        autoprune.evaluate("embedded", data=folder / "long.json")


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, ""),
        ({"tasks": ["a.yaml", "pope"], "task_data": ["pope=x"], "data": ["d.json"]},
         " --tasks a.yaml --tasks pope --task-data pope=x"),
        ({"data": ["my d.json=2", "e.json"], "columns": ["question=ask"]},
         " --data 'my d.json=2' --data e.json --columns question=ask"),
        ({"data": ["d.json"], "images": "pictures"}, " --data d.json --images pictures"),
    ],
)  # fmt: skip
def test_the_next_line_asks_what_the_search_asked(
    settings: dict[str, Any], options: str, tmp_path: Path
) -> None:
    (tmp_path / "search.json").write_text(json.dumps({"trial": 0, "settings": settings}))
    assert evaluate_command(tmp_path) == f"autoprune evaluate {tmp_path}{options}"
    assert evaluate_command(tmp_path / "nowhere").endswith("nowhere")
