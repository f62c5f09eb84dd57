"""The pictures of a search, for every state it can be in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tracking_fakes import fake_byte_summary, fake_summary, fake_trial, fake_trials

from autoprune.tracking.interactive import pareto_figure, pareto_html
from autoprune.tracking.keep_map import keep_map_png
from autoprune.tracking.plots import pareto_png, right_end
from autoprune.tracking.records.summary import SearchSummary
from autoprune.tracking.records.terms import Budget
from autoprune.tracking.records.trial import KeepMap, TrialRecord


def cases() -> dict[str, tuple[SearchSummary, list[TrialRecord]]]:
    records = fake_trials()
    summary = fake_summary(records)
    bare = summary.model_copy(update={"points": (), "baselines": ()})
    deep = KeepMap(
        heads=tuple(range(80)),
        channels=tuple(range(80)),
        dense_heads=(80,) * 80,
        dense_channels=(80,) * 80,
    )
    return {
        "whole": (summary, records),
        "nothing yet": (bare, []),
        "no front yet": (bare, records[:6]),
        "one point": (summary.model_copy(update={"points": summary.front[:1]}), records),
        "only failures": (bare, [fake_trial(0, "failed")]),
        "deep": (summary, [r.model_copy(update={"keep": deep}) for r in records]),
        "many": (fake_summary(many := fake_trials(300, seed=3)), many),
        "bytes": (fake_byte_summary(records), records),
        "no keep maps": (summary, [r.model_copy(update={"keep": None}) for r in records]),
    }


@pytest.mark.parametrize("name", cases())
def test_pictures_come_out(name: str, tmp_path: Path) -> None:
    summary, records = cases()[name]
    pareto_png(summary, records, tmp_path / "pareto.png")
    keep_map_png(summary, records, tmp_path / "keep.png")
    for picture in ("pareto.png", "keep.png"):
        pixels = np.asarray(Image.open(tmp_path / picture).convert("L"))
        assert pixels.shape[0] > 300
        assert pixels.shape[1] > 400
        assert pixels.std() > 3, "nothing is drawn"


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    summary, records = cases()["whole"]
    pareto_html(summary, records, tmp_path / "pareto.html")
    text = (tmp_path / "pareto.html").read_text()
    assert "<script src=" not in text
    assert "trial-0018" in text
    assert "not comparable" in text


def test_bytes_are_the_axis_where_they_are_the_objective(tmp_path: Path) -> None:
    records = fake_trials()
    for summary, says, other in (
        (fake_byte_summary(records), "stored weights of the whole model (MiB)", "parameters of"),
        (fake_summary(records), "parameters of the whole model", "stored weights"),
    ):
        figure = pareto_figure(summary, records)
        assert says in figure.layout.xaxis.title.text
        assert other not in figure.layout.xaxis.title.text
        low, high = figure.layout.xaxis.range
        front = next(trace for trace in figure.data if trace.name == "confirmed front")
        assert all(low < x < high for x in front.x)
        assert list(front.x) == sorted(front.x)
    bits = next(t for t in pareto_figure(fake_byte_summary(records), records).data if t.text)
    assert any("int4" in text or "int8" in text for text in bits.text)


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    records = [
        r.model_copy(update={"recovery": "<script>alert(1)</script>"}) for r in fake_trials(9)
    ]
    summary = fake_summary(records, name="</script><b>x")
    pareto_html(summary, records, tmp_path / "pareto.html")
    text = (tmp_path / "pareto.html").read_text()
    assert "<script>alert(1)" not in text
    assert "</script><b>x" not in text


def test_a_budget_near_the_dense_size_shows_it_in_the_frame() -> None:
    assert right_end(0.5, 0.6, 1.0) == (pytest.approx(0.625), True)
    end, far = right_end(0.5, 0.9, 1.0)
    assert not far
    assert end > 1.0


def test_a_tight_budget_still_draws(tmp_path: Path) -> None:
    summary, records = cases()["whole"]
    smallest = min(r.params or 0 for r in records)
    budget = Budget(text="x", params=smallest, fraction=0.3)
    pareto_png(summary.model_copy(update={"budget": budget}), records, tmp_path / "p.png")
