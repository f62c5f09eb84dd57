"""Functions and commands have the same names and the same defaults."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import autoprune
from autoprune import api
from autoprune.api.model import SmallerModel
from autoprune.api.options import SearchOptions, fields, settings_of
from autoprune.cli.evaluate import evaluate as evaluate_command
from autoprune.cli.export import export as export_command
from autoprune.cli.pick import pick as pick_command
from autoprune.cli.search import search as search_command
from autoprune.errors import AutoPruneError
from autoprune.search.settings import SearchSettings, make_settings

OF_THE_COMMAND = {"as_json", "dry_run"}
OF_PYTHON = {"on_stage"}
NOT_TYPED = {"columns", "data", "home", "tasks", "task_data", "floor"}
"""Options that are None on the command line until they are typed."""

RENAMED = {"format_name": "format"}
"""Parameters of commands whose option has another name."""


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the parameters of a function that have a default, and the default."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def test_every_setting_of_a_search_is_an_option() -> None:
    assert set(SearchOptions.__annotations__) == set(fields())
    typed = set(inspect.signature(search_command).parameters) - OF_THE_COMMAND - {"resume"}
    assert {fields()[name] for name in SearchOptions.__annotations__} == typed


@pytest.mark.parametrize(
    ("command", "function"),
    [
        (evaluate_command, api.evaluate),
        (export_command, api.export),
        (pick_command, api.pick),
    ],
)
def test_defaults_are_those_of_the_command(
    command: Callable[..., Any], function: Callable[..., Any]
) -> None:
    typed = {
        RENAMED.get(name, name): default
        for name, default in defaults(command).items()
        if name not in OF_THE_COMMAND
    }
    ours = {name: d for name, d in defaults(function).items() if name not in OF_PYTHON}
    assert set(ours) == set(typed)
    # An option that was not typed is None or empty; a home directory has a default of its own.
    for name, default in ours.items():
        assert default == typed[name] or (typed[name] is None and name in NOT_TYPED)


def test_options_are_read_as_they_are_typed(tmp_path: Path) -> None:
    given: SearchOptions = {
        "budget": "50%",
        "tasks": "digits_read, digits_count",
        "quantize": ["none", "int8"],
        "model": Path("embedded"),
        "baselines": False,
        "home": tmp_path,
        "objective": "latency",
        "device": "jetson-orin-nano-8gb",
    }
    expected = {
        "budgets": ("50%",),
        "tasks": ("digits_read", "digits_count"),
        "quantize": ("none", "int8"),
        "model": "embedded",
        "warm_baselines": False,
        "home": tmp_path,
        "objective": "bytes",
        "timed": True,
        "device": "jetson-orin-nano-8gb",
    }
    assert settings_of(given) == make_settings(expected)
    assert settings_of({}) == SearchSettings()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budgets": "50%"}, "unknown option 'budgets' .did you mean 'budget'"),
        ({"trials": 0}, "--trials 0 is below 1"),
        ({"sampler": "tpa"}, "did you mean 'tpe'"),
        ({"budget": 60}, "budget '60' has no unit"),
        ({"floor": {"nope": 0.5}}, "--floor nope=0.5: no such task"),
    ],
)
def test_what_the_command_refuses_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AutoPruneError, match=words):
        autoprune.search(**options)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: autoprune.prune(budget="50%", knobs=["axis"]), "no mapping: write them as"),
        (lambda: autoprune.recover("demo:7"), "'demo:7' is no pruned model"),
        (lambda: autoprune.pick(["nope", "nope"]), "'nope' is named twice"),
        (lambda: autoprune.pick("nope", max_latency=40), "--max-latency '40' cannot be read"),
    ],
)
def test_values_of_another_kind_are_refused(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(AutoPruneError, match=words):
        call()


def test_the_library_is_imported_when_it_is_used() -> None:
    code = (
        "import sys, autoprune\n"
        "assert 'torch' not in sys.modules and 'ray' not in sys.modules\n"
        "assert callable(autoprune.search)\n"
        "import autoprune.search.settings\n"
        "assert callable(autoprune.search) and autoprune.search.settings\n"
        "for name in autoprune.__all__: assert getattr(autoprune, name) is not None\n"
        "try: autoprune.serch\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "has no attribute 'serch'" in done.stdout


def test_a_cut_model_is_asked_its_own_tasks_of_its_own_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = make_settings({"tasks": ("pope", "gqa"), "task_data": (f"pope={tmp_path}",)})
    model = SmallerModel(settings, *[None] * 3, False, None)  # type: ignore[arg-type]
    monkeypatch.setattr(SmallerModel, "save", lambda self, path: SimpleNamespace(path=path))
    monkeypatch.setattr("autoprune.deploy.scoring.score_model", lambda ref, **asked: asked)

    def asked(**options: Any) -> tuple[Any, Any]:
        found: Any = api.evaluate(model, **options)
        return found["tasks"], found["task_data"]

    assert asked() == (("pope", "gqa"), (f"pope={tmp_path}",))
    assert asked(tasks="gqa") == (("gqa",), ())
    assert asked(task_data="gqa=x") == (("pope", "gqa"), ("gqa=x",))
