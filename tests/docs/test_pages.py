"""Pages of the docs: what is written from code is as the code says; links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autoprune.models.axes import markdown as models_page
from autoprune.search.knobs.reference import markdown as knobs_page
from autoprune.search.knobs.table import KNOBS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")


@pytest.mark.parametrize(
    ("page", "text"), [("models.md", models_page()), ("knobs.md", knobs_page())]
)
def test_pages_from_code_are_up_to_date(page: str, text: str) -> None:
    assert (ROOT / "docs" / page).read_text() == text, "run make docs"


def test_every_knob_is_on_its_page() -> None:
    page = knobs_page()
    missing = [name for name in KNOBS if f"`{name}`" not in page and "ratio_" not in name]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_results_are_those_of_the_readme() -> None:
    """Both pages show one table, so that no figure is mended in one of them only."""

    def rows(path: Path, prefix: str) -> set[str]:
        lines = path.read_text().splitlines()
        return {
            line.replace(prefix, "experiments/")
            for line in lines
            if line.startswith("|") and "experiments/" in line
        }

    shown = rows(ROOT / "README.md", "](experiments/")
    assert shown
    assert shown <= rows(ROOT / "docs" / "results.md", "](../experiments/")
