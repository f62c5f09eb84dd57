from __future__ import annotations

from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from autoprune.errors import AutoPruneError
from autoprune.search.knobs.space import (
    Range,
    list_spaces,
    load_space,
    parse_space,
    with_precisions,
)
from autoprune.search.knobs.table import KNOBS

HEAD = "description: a test\nknobs:\n"


@pytest.mark.parametrize("name", list_spaces())
def test_every_shipped_space_loads_and_completes(name: str) -> None:
    space = load_space(name)
    assert space.description
    assert set(space.distributions()) <= set(space.knobs)
    complete = space.complete({"size": 0.5})
    usual = {knob for knob, row in KNOBS.items() if row.default is not None}
    assert usual <= set(complete) <= {*usual, *space.knobs}
    assert complete["size"] == 0.5


def test_domains_become_distributions() -> None:
    space = parse_space(
        HEAD
        + "  size: {low: 0, high: 1}\n  protect_first: {low: 0, high: 2, integer: true}\n"
        + "  axis: [width, depth]\n  scope: lora\n",
        "mine",
    )
    assert space.distributions() == {
        "size": FloatDistribution(0, 1),
        "protect_first": IntDistribution(0, 2),
        "axis": CategoricalDistribution(("width", "depth")),
    }
    assert space.complete({})["scope"] == "lora"


def test_precisions_are_set_by_an_option() -> None:
    space = load_space("hybrid")
    assert with_precisions(space, ("float32",)) is space
    assert space.complete({})["precision"] == "float32"
    one = with_precisions(space, ("int4",))
    assert one.complete({})["precision"] == "int4"
    assert one.distributions() == space.distributions()
    several = with_precisions(space, ("float32", "int8"))
    assert several.distributions()["precision"] == CategoricalDistribution(("float32", "int8"))


BAD = {
    "knob of an option": (HEAD + "  precision: [int8, float32]\n", "set by --quantize"),
    "unknown key": ("description: x\nknob: {}\nknobs: {}\n", "unknown key 'knob'"),
    "unknown knob": (HEAD + "  temprature: 1\n", "did you mean 'temperature'"),
    "empty range": (HEAD + "  size: {low: 1, high: 1}\n", "empty range"),
    "turned range": (HEAD + "  size: {low: 1, high: 0}\n", "empty range"),
    "no choices": (HEAD + "  axis: []\n", "knob axis"),
    "wrong type": (HEAD + "  size: {low: small, high: 1}\n", "low"),
    "name for a number": (HEAD + "  size: big\n", "'big' is not a number"),
    "unknown name": (HEAD + "  axis: [widths]\n", "'widths' is not one of width, depth, hybrid"),
    "outside bounds": (HEAD + "  data_fraction: {low: 0, high: 1}\n", "data_fraction"),
    "unknown range key": (HEAD + "  size: {low: 0, high: 1, stop: 2}\n", "unknown key 'stop'"),
    "uneven steps": (HEAD + "  size: {low: 0, high: 1, step: 0.3}\n", "equal parts"),
    "steps of nothing": (HEAD + "  size: {low: 0, high: 1, step: 0}\n", "equal parts"),
    "log from zero": (HEAD + "  size: {low: 0, high: 1, log: true}\n", "log range"),
    "range of names": (HEAD + "  axis: {low: 0, high: 1}\n", "takes names"),
    "number for a switch": (HEAD + "  contiguous: [0, 1]\n", "contiguous"),
    "rungs": (HEAD + "  size: 1\nrungs: [0, 2]\n", "rungs must rise from 0 to 1"),
    "not yaml": ("knobs: [", "not readable YAML at line 1"),
    "not a mapping": ("- a\n", "must be a mapping"),
    "no description": ("knobs: {}\n", "description"),
}


@pytest.mark.parametrize(("text", "part"), BAD.values(), ids=BAD)
def test_bad_spaces_are_refused_in_one_line(text: str, part: str) -> None:
    with pytest.raises(AutoPruneError) as caught:
        parse_space(text, "mine")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "mine" in str(caught.value)


def test_unknown_space_says_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(AutoPruneError, match="did you mean 'hybrid'"):
        load_space("hybird")
    with pytest.raises(AutoPruneError, match="does not exist"):
        load_space(str(tmp_path / "none.yaml"))


def test_a_file_is_a_space_too(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(HEAD + "  size: {low: 0, high: 1}\n")
    assert load_space(str(path)).name == "own"


def test_the_end_of_a_stepped_range_is_its_last_cell() -> None:
    """0.1 + 6 * 0.1 is a hair above 0.7, and no point of the space."""
    from autoprune.search.knobs.grid import cells

    text = "description: a\nknobs:\n  temperature: {low: 0.1, high: 0.7, step: 0.1}\n"
    space = parse_space(text, "a")
    assert [c["temperature"] for c in cells(space)][-1] == 0.7


def test_a_stepped_range_is_drawn_walked_and_snapped_on_its_grid() -> None:
    from autoprune.search.knobs.grid import cells
    from autoprune.search.study import snapped

    space = parse_space(HEAD + "  size: {low: 0, high: 1, step: 0.25}\n  axis: width\n", "steps")
    assert [cell["size"] for cell in cells(space)] == [0, 0.25, 0.5, 0.75, 1]
    domain = space.distributions()["size"]
    assert snapped(domain, 0.6) == 0.5
    assert snapped(domain, 1.7) == 1.0
    apart = Range(low=0.05, high=0.95, step=0.3).distribution()
    assert snapped(apart, 1) == 0.95  # a whole number is a number like others
    assert snapped(load_space("hybrid").distributions()["temperature"], 0.61) == 0.61
    assert space.knobs["size"].describe() == "0 … 1 by 0.25"
