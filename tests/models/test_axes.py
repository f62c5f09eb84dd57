"""The page of supported models says what the table of families says."""

from __future__ import annotations

from pathlib import Path

from autoprune.models.axes import by_axis, markdown, rows
from autoprune.models.families import FAMILIES, HEAD_RULES, WRAPPERS

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_page_is_the_table() -> None:
    assert PAGE.read_text() == markdown(), "write it anew: make docs"


def test_every_family_and_architecture_has_its_place() -> None:
    _, *body = rows()
    assert [row[0] for row in body] == list(FAMILIES)
    assert {name for row in body for name in row[1].split(", ")} == set(WRAPPERS)
    by_rule = {FAMILIES[row[0]].heads: row[4] for row in body}
    assert set(by_rule) == set(HEAD_RULES)
    assert by_rule["any"] == "stock"
    assert by_rule["dense"] == "any"


def test_by_axis_says_what_the_table_says() -> None:
    heading, *body = rows()
    table = {
        (row[0], axis): loads
        for row in body
        for axis, loads in zip(heading[2:], row[2:], strict=True)
    }
    said = {
        (family, axis): loads
        for axis, groups in by_axis()
        for loads, families in groups
        for family in families
    }
    assert said == table
