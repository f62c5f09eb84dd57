"""Several fronts in one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tracking_fakes import fake_byte_summary, fake_summary, fake_trials

from autoprune.tracking.comparison import Compared, Comparison, Range
from autoprune.tracking.overlay import heading, overlay, overlay_figure
from autoprune.tracking.records.summary import SearchSummary


def compared(summary: SearchSummary, name: str) -> Compared:
    volume = Range(mean=0.5, low=0.49, high=0.51)
    return Compared(name=name, summary=summary, hypervolume=volume, gain=None, trials=24)


def of(*summaries: SearchSummary, objective: str = "params") -> Comparison:
    return Comparison(
        dense=summaries[0].dense,
        objective=objective,
        searches=tuple(compared(s, f"search {i}") for i, s in enumerate(summaries)),
        baselines=summaries[0].baselines,
    )


def cases() -> dict[str, Comparison]:
    one, two = (fake_summary(fake_trials(24, seed=seed)) for seed in (0, 1))
    bare = two.model_copy(update={"points": (), "baselines": ()})
    in_bytes = fake_byte_summary(fake_trials())
    return {
        "two": of(one, two),
        "nine": of(*[one, two] * 4, one),
        "one without a front": of(one, bare),
        "bytes": of(in_bytes, in_bytes, objective="bytes"),
    }


@pytest.mark.parametrize("name", cases())
def test_pictures_come_out(name: str, tmp_path: Path) -> None:
    comparison = cases()[name]
    overlay(comparison, tmp_path / "a" / "fronts.png")
    pixels = np.asarray(Image.open(tmp_path / "a" / "fronts.png").convert("L"))
    assert pixels.shape[1] > 800
    assert pixels.std() > 3


def test_each_search_and_the_baselines_stand_once_in_the_legend() -> None:
    comparison = cases()["two"]
    named = [
        trace.name for trace in overlay_figure(comparison).data if trace.showlegend is not False
    ]
    assert named == [*(heading(one) for one in comparison.searches), "baselines, run alike"]


def test_the_staircase_leaves_out_what_is_behind() -> None:
    comparison = cases()["two"]
    summary = comparison.searches[0].summary
    line, marks = overlay_figure(comparison).data[:2]
    assert len(summary.stairs) < len(summary.front) == len(marks.x)
    assert list(line.y[:-1]) == [p.retention.mean for p in summary.stairs]
    assert line.x[-1] == 100
    hollow = [p.behind for p in summary.front]
    assert [colour == "white" for colour in marks.marker.color] == hollow


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    comparison = cases()["two"]
    evil = comparison.searches[0].model_copy(update={"name": "</script><b>x"})
    overlay(comparison.model_copy(update={"searches": (evil,)}), tmp_path / "page.html")
    assert "</script><b>x" not in (tmp_path / "page.html").read_text()
