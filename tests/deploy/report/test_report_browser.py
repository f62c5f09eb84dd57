"""The page of a report in a real browser, on a phone and a desktop, in light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deploy.report.report_fakes import cases, make_store
from support.browser import CHROMIUM, MISSING, Page, open_browser

from autoprune.deploy.report.gather import gather
from autoprune.deploy.report.model import Report
from autoprune.deploy.report.page import write_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)

PHONE, DESKTOP = (360, 780), (1280, 900)
SCREENS = {
    "phone, light": (*PHONE, False),
    "phone, dark": (*PHONE, True),
    "desktop, light": (*DESKTOP, False),
    "desktop, dark": (*DESKTOP, True),
}


@dataclass
class Shown:
    """A tab, and a folder with a page for each state of a search."""

    page: Page
    folder: Path

    def report(self, case: str) -> Report:
        """Return what the page of a state was made of; the page is written at the first call."""
        report = gather(make_store(self.folder / case.replace(" ", "-"), case))
        write_page(report, self.folder / f"{case}.html")
        return report

    def open(self, case: str, screen: str) -> Report:
        """Open the page of a state on a screen."""
        report = self.report(case)
        width, height, dark = SCREENS[screen]
        self.page.requests.clear()
        self.page.errors.clear()
        self.page.emulate(width, height, dark=dark, touch=width == PHONE[0])
        self.page.open((self.folder / f"{case}.html").as_uri())
        return report


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("report")
    with open_browser(folder / "profile") as browser:
        yield Shown(browser.page(), folder)


WIDER = "document.documentElement.scrollWidth - innerWidth"
CONTRAST = """
(() => {
  const light = (text) => {
    const c = document.createElement('canvas').getContext('2d');
    c.fillStyle = text; c.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...c.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const probe = document.body.appendChild(document.createElement('i'));
  const resolved = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const worst = {};
  for (const text of ['ink', 'soft', 'link', 'rule', 'good', 'bad']) {
    const all = ['page', 'panel', 'sunk', 'faint'].map((back) => {
      const [a, b] = [light(resolved(text)), light(resolved(back))].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    });
    worst[text] = Math.min(...all);
  }
  probe.remove();
  return worst;
})()
"""


@pytest.mark.parametrize("screen", SCREENS)
def test_it_stands_by_itself_and_fits(shown: Shown, screen: str) -> None:
    report = shown.open("whole", screen)
    page = shown.page
    assert page.errors == []
    assert page.requests == [(shown.folder / "whole.html").as_uri()]
    assert page.js(WIDER) <= 0
    inside = {m.trial for m in report.charts[0].marks if m.inside}
    drawn = "[...document.querySelectorAll('.chart:not([hidden]) .plot .mark')]"
    assert set(page.js(f"{drawn}.map((m) => Number(m.dataset.trial))")) == inside
    assert page.js(f"{drawn}.every((m) => m.getBoundingClientRect().width >= 24)")
    frame = "document.querySelector('.chart .plot').getBoundingClientRect()"
    assert page.js(
        f"(() => {{ const f = {frame}; return {drawn}.every((m) => {{"
        "const r = m.getBoundingClientRect(); const x = r.x + r.width / 2, y = r.y + r.height / 2;"
        "return x >= f.left - 1 && x <= f.right + 1 && y >= f.top - 1 && y <= f.bottom + 1 }) })()"
    )
    worst = page.js(CONTRAST)
    assert all(ratio >= 4.5 for ratio in worst.values()), worst
    back = page.js("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(18, 21, 24)") == SCREENS[screen][2]


@pytest.mark.parametrize("case", [case for case in cases() if case != "whole"])
def test_every_state_fits_a_phone(shown: Shown, case: str) -> None:
    report = shown.open(case, "phone, light")
    assert shown.page.errors == []
    assert shown.page.js(WIDER) <= 0
    assert shown.page.js("document.querySelector('h1').textContent") == report.found[0]


def test_long_names_fit_a_phone(shown: Shown) -> None:
    store = make_store(shown.folder / "long", name="n" * 80, model="/models/" + "m" * 120)
    write_page(gather(store), shown.folder / "long.html")
    shown.page.emulate(*PHONE, touch=True)
    shown.page.open((shown.folder / "long.html").as_uri())
    assert shown.page.js(WIDER) <= 0


@pytest.mark.parametrize("screen", ["phone, dark", "desktop, light"])
def test_a_point_tells_itself_and_its_layers(shown: Shown, screen: str) -> None:
    report = shown.open("whole", screen)
    page = shown.page
    touch = page.tap if screen.startswith("phone") else page.click
    chosen = f"document.querySelector('.plot .mark[data-trial=\"{report.chosen}\"]')"
    assert page.js(f"{chosen}.getAttribute('aria-pressed')") == "true"
    row = next(row for row in report.rows if row.trial != report.chosen and row.kind == "front")
    touch(f'.chart:not([hidden]) .plot .mark[data-trial="{row.trial}"]')
    text = page.js("document.getElementById('detail').textContent")
    assert f"{row.retention:.3f}" in text
    assert row.recovery in text
    assert all(task.replace("_", " ") in text for task in row.scores)
    keep = page.js("document.getElementById('keep').textContent")
    assert f"What trial {row.trial} keeps of each layer" in keep
    detail = report.detail(row.trial)
    assert detail is not None
    assert detail.keep is not None
    assert f"{sum(detail.keep.heads)} of {sum(detail.keep.dense_heads)}" in keep
    assert page.js("document.querySelectorAll('#keep .row i').length") == 2 * len(detail.keep.heads)
    assert page.js(f"{chosen}.getAttribute('aria-pressed')") == "false"
    tip = page.js("document.querySelector('.chart:not([hidden]) .tip').textContent")
    assert tip.lower().startswith(f"trial {row.trial}")
    # A tie is marked when the point that it is with is chosen.
    tied = next(row for row in report.rows if row.kind == "tied")
    touch(f'.map[data-trial="{tied.trial}"]')
    rings = "[...document.querySelectorAll('.chart:not([hidden]) .mark.tie')]"
    ties = page.js(f"{rings}.map((m) => m.dataset.trial)")
    assert ", ".join(ties) == tied.ties
    assert page.errors == []


def test_a_trial_that_was_stopped_says_why(shown: Shown) -> None:
    report = shown.open("whole", "desktop, dark")
    marks = report.charts[0].marks
    stopped = next(m.trial for m in marks if m.kind == "stopped" and m.inside)
    # Marks may lie on each other: the list reaches every one of them.
    shown.page.js(
        f"(() => {{ const l = document.getElementById('choose'); l.value = '{stopped}';"
        "l.dispatchEvent(new Event('change')) })()"
    )
    text = shown.page.js("document.getElementById('detail').textContent")
    assert "Stopped early: dominated at rung 1" in text
    assert "unconfirmed" in text


def test_keys_step_along_the_front(shown: Shown) -> None:
    report = shown.open("whole", "desktop, light")
    page = shown.page
    order = [row.trial for row in report.rows]
    page.js("document.querySelector('.plot .mark[tabindex=\"0\"]').focus()")
    at = order.index(report.chosen or 0)
    for key, step in (("ArrowLeft", -1), ("ArrowLeft", -2), ("ArrowRight", -1)):
        page.press(key)
        focused = int(page.js("document.activeElement.dataset.trial"))
        sizes = {m.trial: m.x for m in report.charts[0].marks}
        expected = sorted(order, key=lambda trial: sizes[trial])[at + step]
        assert sizes[focused] == sizes[expected]
    assert page.js("document.querySelectorAll('.plot .mark[tabindex=\"0\"]').length") >= 1


def test_the_table_sorts(shown: Shown) -> None:
    shown.open("whole", "phone, light")
    page = shown.page
    heads = page.js("[...document.querySelectorAll('#points table thead')][0].innerText")
    column = [line.strip(" ↕↑↓") for line in heads.split("\t")].index("Retention") + 1

    def told(column: int, what: str) -> list[Any]:
        rows = "[...document.querySelector('#points table').querySelectorAll('tbody tr')]"
        return list(page.js(f"{rows}.map((r) => r.cells[{column - 1}]).map((c) => {what})"))

    for order, flip in (("ascending", False), ("descending", True)):
        page.tap(f"#points table thead th:nth-child({column}) button")
        found = told(column, "Number(c.textContent)")
        assert found == sorted(found, reverse=flip)
        head = f"document.querySelector('#points thead th:nth-child({column})')"
        assert page.js(f"{head}.getAttribute('aria-sort')") == order
    page.tap("#points table thead th:nth-child(5) button")  # words
    words = told(5, "c.innerText.trim()")
    assert words == sorted(words, key=str.lower)


def test_switches(shown: Shown) -> None:
    report = shown.open("bytes", "desktop, light")
    page = shown.page
    page.click('[data-theme-choice="dark"]')
    assert page.js("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 24)"
    page.click('[data-theme-choice="auto"]')
    assert page.js("getComputedStyle(document.body).backgroundColor") != "rgb(18, 21, 24)"
    assert [chart.key for chart in report.charts] == ["bytes", "params"]
    page.click('[data-unit="params"]')
    shown_chart = "document.querySelector('.chart:not([hidden])')"
    assert page.js(f"{shown_chart}.dataset.chart") == "params"
    visible = (
        f"[...{shown_chart}.querySelectorAll('.mark.stopped')].filter((m) => !m.hidden).length"
    )
    assert page.js(visible) > 0
    page.click('[data-hide="stopped"]')
    assert page.js(visible) == 0
    page.click('[data-hide="stopped"]')
    assert page.js(visible) > 0
    assert page.errors == []


def test_assistive_technology_can_name_everything(shown: Shown) -> None:
    shown.open("whole", "phone, light")
    tree = shown.page.call("Accessibility.getFullAXTree")["nodes"]
    named = ("button", "link", "combobox", "image", "img", "table", "region", "navigation")
    seen = [node for node in tree if not node["ignored"] and node["role"]["value"] in named]
    nameless = [n["role"]["value"] for n in seen if not n.get("name", {}).get("value", "").strip()]
    assert nameless == []
    assert len([n for n in seen if n["role"]["value"] == "button"]) > 30
    levels = shown.page.js("[...document.querySelectorAll('h1, h2, h3')].map((h) => h.tagName)")
    assert levels.count("H1") == 1
    assert levels[0] == "H1"
    assert levels[1] == "H2"
    assert shown.page.js("document.documentElement.lang") == "en"
    assert shown.page.js("[...document.querySelectorAll('th')].every((th) => th.scope)")


def test_a_network_would_be_refused(shown: Shown) -> None:
    """The page's own policy forbids what nobody wants: the check above would see a request."""
    shown.open("whole", "desktop, light")
    refused = shown.page.js(
        "fetch('https://example.org/').then(() => 'let through', () => 'refused')"
    )
    assert refused == "refused"
    assert any("Content Security Policy" in text for text in shown.page.errors)
