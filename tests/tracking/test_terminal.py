"""The front where most people see it first."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from tracking_fakes import fake_byte_summary, fake_summary, fake_trials

from autoprune.tracking.terminal import bytes_text, front_plot, front_table, params_text


def shown(renderable: object, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(renderable)
    return out.getvalue()


def test_the_table_fits_eighty_columns() -> None:
    summary = fake_summary()
    text = shown(front_table(summary, dominated=True))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for point in (*summary.points, *summary.baselines):
        r = point.retention
        assert f"{r.mean:.3f} {r.low:.3f}–{r.high:.3f}" in text
    for word in (
        "budget 60%",
        "3 seeds",
        "usual recipes",
        "paper-depth",
        "dominated",
        "ties",
        "sft+hidden/full",
    ):
        assert word in text


def test_a_usual_recipe_on_the_front_stands_in_the_table_once() -> None:
    summary = fake_summary()
    best = summary.front[-1].model_copy(update={"baseline": "paper-depth"})
    kept = tuple(p for p in summary.points if p.trial != best.trial)
    there = summary.model_copy(update={"points": (*kept, best), "baselines": (best,)})
    text = shown(front_table(there), 160)
    assert text.count("paper-depth") == 1
    assert "usual recipes" not in text


def test_bytes_and_bits_stand_in_the_table_where_they_are_the_objective() -> None:
    records = fake_trials()
    summary = fake_byte_summary(records)
    text = shown(front_table(summary, dominated=True))
    assert max(map(len, text.splitlines())) <= 80
    assert "params" in shown(front_table(summary, wide=True), 120)
    for word in ("stored", "bits", " 4 ", " 8 ", " 32 ", "budget 5MiB-bytes = 5.00MiB of 7.85"):
        assert word in text
    sizes = [point.bytes for point in summary.front]
    assert sizes == sorted(sizes)
    assert "dense 7.85MiB" in shown(front_plot(summary, records))
    assert "bits" not in shown(front_table(fake_summary(records)))


def test_a_budget_in_parameters_is_said_in_them_where_bits_make_the_bytes_fewer() -> None:
    summary = fake_byte_summary(fake_trials())
    fewer = summary.budget.model_copy(
        update={"text": "60%", "params": 1_236_000, "fraction": 0.6, "bytes": 2_400_000}
    )
    text = shown(front_table(summary.model_copy(update={"budget": fewer})))
    assert "budget 60% = 1.24M of 2.06M parameters" in text
    assert "stored: 2.29MiB at most, the dense model 7.85MiB in float32" in text


@pytest.mark.parametrize(
    ("count", "text"), [(512, "512B"), (2**20, "1.00MiB"), (25 * 2**30, "25.0GiB")]
)
def test_bytes_as_people_say_them(count: int, text: str) -> None:
    assert bytes_text(count) == text


def test_dominated_points_are_left_out_unless_asked_for() -> None:
    assert "dominated" not in shown(front_table(fake_summary()))
    assert "raw" in shown(front_table(fake_summary(), wide=True), 120)


def test_the_plot_has_its_size_and_marks() -> None:
    records = fake_trials()
    summary = fake_summary(records)
    text = shown(front_plot(summary, records))
    lines = text.splitlines()
    assert len(lines) == 15 + 2
    assert max(map(len, lines)) <= 80
    body = "\n".join(lines[:15])
    assert body.count("●") == len(summary.stairs)
    assert body.count("○") == len(summary.front) - len(summary.stairs) == 1
    assert "◇" in body
    assert "∘" in body
    assert "dense 2.06M" in body
    assert "┊" in body


def test_the_plot_in_plain_ascii() -> None:
    records = fake_trials()
    assert shown(front_plot(fake_summary(records), records, unicode=False)).isascii()


def test_nothing_to_show_is_shown_as_such() -> None:
    summary = fake_summary([])
    assert "no confirmed front yet" in shown(front_table(summary))
    assert len(shown(front_plot(summary)).splitlines()) == 17


@pytest.mark.parametrize(
    ("params", "text"),
    [(950, "950"), (847_134, "847k"), (1_190_212, "1.19M"), (12_345_678, "12.3M"), (7e9, "7.00B")],
)
def test_sizes_as_people_say_them(params: int, text: str) -> None:
    assert params_text(int(params)) == text
