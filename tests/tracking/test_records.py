"""Records survive JSON and refuse what they do not know."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError
from tracking_fakes import fake_point, fake_summary, fake_trial, fake_trials

from autoprune.errors import AutoPruneError
from autoprune.tracking import naming
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.trial import KeepMap, TrialRecord, read_records, write_records


@pytest.mark.parametrize("state", ["running", "complete", "stopped", "failed"])
def test_a_trial_survives_json(state: str) -> None:
    record = fake_trial(7, state)
    assert TrialRecord.from_json(record.to_json()) == record
    assert record.name == "trial-0007"


def test_a_summary_survives_json() -> None:
    summary = fake_summary()
    assert SearchSummary.from_json(summary.to_json(indent=2)) == summary


def test_the_front_json_has_the_promised_form() -> None:
    form = json.loads(fake_summary().to_json())
    assert list(form)[:3] == ["dense", "budget", "points"]
    known = {"params", "bytes", "memory", "latency", "precision", "scores", "measured"}
    assert set(form["dense"]) == known
    promised = "trial params fraction axis recovery data_fraction backbone_removed retention "
    promised += "retention_raw scores"
    assert list(form["points"][0])[:10] == promised.split()
    assert list(form["points"][0]["retention"]) == ["mean", "low", "high", "seeds"]


def test_a_summary_of_an_earlier_version_is_read() -> None:
    """It knew neither ties with a smaller point nor intervals of its own figures."""
    value = json.loads(fake_summary().to_json())
    for name in ("hypervolume", "shrinkage"):
        del value[f"{name}_low"], value[f"{name}_high"]
    for point in (*value["points"], *value["baselines"]):
        del point["behind"], point["tied_smaller"]
    summary = SearchSummary.from_json(json.dumps(value))
    assert summary.hypervolume == 0.123
    assert summary.hypervolume_low is None
    assert summary.stairs == summary.front
    assert any(point.tie.startswith("tied with ") for point in summary.front)


def test_a_trial_of_an_earlier_version_is_read() -> None:
    """It knew parameters only: neither bytes, nor memory, nor latency, nor floors."""
    value = json.loads(fake_trial(7, "complete").to_json())
    later = ("bytes", "memory", "latency", "precision", "missed", "parent", "layout", "keep")
    old = {name: item for name, item in value.items() if not name.startswith(later)}
    assert len(old) < len(value) - 8
    record = TrialRecord.from_json(json.dumps(old))
    assert (record.trial, record.params, record.memory) == (7, value["params"], None)


def test_the_search_run_has_the_intervals_and_the_trials_their_tie() -> None:
    summary = fake_summary()
    metrics = naming.summary_metrics(summary, [])
    assert metrics["front/hypervolume_low"] < metrics["front/hypervolume"]
    assert metrics["front/hypervolume"] < metrics["front/hypervolume_high"]
    assert metrics["front/shrinkage_low"] < metrics["front/shrinkage_high"]
    (behind,) = [point for point in summary.front if point.behind]
    tags = naming.point_tags(behind)
    assert tags["front"] == "yes"
    assert tags["tie"] == behind.tie
    assert "which is smaller" in tags["tie"]
    assert naming.point_tags(summary.front[-1])["tie"] == ""


def test_the_front_leaves_dominated_points_out() -> None:
    summary = fake_summary()
    assert any(point.dominated for point in summary.points)
    assert not any(point.dominated for point in summary.front)
    sizes = [point.params for point in summary.front]
    assert sizes == sorted(sizes)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError):
        TrialRecord(trial=1, state="complete", colour="red")  # type: ignore[call-arg]
    with pytest.raises(AutoPruneError, match="colour"):
        TrialRecord.from_json('{"trial": 1, "state": "complete", "colour": "red"}')


def test_records_are_frozen() -> None:
    with pytest.raises(ValidationError):
        fake_trial(1).state = "failed"  # type: ignore[misc]


def test_a_figure_that_is_not_a_number_is_none() -> None:
    record = TrialRecord(trial=0, state="failed", proxy_kl=math.nan, retention=math.inf)
    assert record.proxy_kl is None
    assert record.retention is None


def test_keep_map_shares() -> None:
    keep = KeepMap(
        heads=(4, 0, 2), channels=(0, 0, 5), dense_heads=(4,) * 3, dense_channels=(10,) * 3
    )
    assert keep.attention == (1.0, 0.0, 0.5)
    assert keep.mlp == (0.0, 0.0, 0.5)
    assert keep.layers_kept == 2
    with pytest.raises(ValidationError):
        KeepMap(heads=(4,), channels=(1, 2), dense_heads=(4,), dense_channels=(2, 2))


def test_json_lines_keep_the_last_of_a_trial_and_forgive_a_cut_off_line(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    running, done = fake_trial(1, "running"), fake_trial(1)
    write_records(path, [running, *fake_trials(4)])
    with path.open("a") as stream:
        stream.write(done.to_json() + "\n" + done.to_json()[:40])
    records = read_records(path)
    assert [record.trial for record in records] == [0, 1, 2, 3]
    assert records[1] == done


def test_a_spoilt_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text('{"trial": \n' + fake_trial(1).to_json() + "\n")
    with pytest.raises(AutoPruneError):
        read_records(path)


def test_a_point_is_named_like_its_trial() -> None:
    assert fake_point(fake_trial(3)).name == "trial-0003"
