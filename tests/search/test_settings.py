from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.user_data import llava

from autoprune.errors import AutoPruneError
from autoprune.search import running
from autoprune.search.settings import FREE, LATER, SearchSettings, make_settings

# field, value, what the line must hold
WRONG: list[tuple[str, Any, str]] = [
    ("trials", 0, "--trials 0 is below 1"),
    ("trials", "many", "--trials 'many'"),
    ("workers", 0, "--workers 0 is below 1"),
    ("workers", 10**6, "--workers 1e+06 is above 100,000: give less"),
    ("trials", 10**6, "--trials 1e+06 is above 100,000: give less"),
    ("confirm_points", 10**6, "--confirm-points 1e+06 is above 100,000: give less"),
    ("multiple", 0, "--multiple 0 is below 1"),
    ("search_samples", 0, "--search-samples 0 is below 1"),
    ("max_recovery_samples", 0, "--max-recovery-samples 0 is below 1"),
    ("rung_share", 2, "--rung-share 2 lies outside (0, 1]: 1 is all of the images"),
    ("context", 0, "--context 0 is below 1"),
    ("max_length", 0, "--max-length 0 is below 1"),
    ("confirm_seeds", 0, "--confirm-seeds 0"),
    ("data_fraction", 0, "--data-fraction 0 lies outside (0, 1]"),
    ("data_fraction", 1.5, "--data-fraction 1.5"),
    ("data_fraction", float("nan"), "--data-fraction nan"),
    ("sampler", "tpr", "unknown sampler 'tpr' (did you mean 'tpe'?)"),
    ("space", "hybird", "unknown space 'hybird' (did you mean 'hybrid'?)"),
    ("space", "nowhere.yaml", "'nowhere.yaml' does not exist"),
    ("max_hours", 0, "--max-hours 0 is not a number above 0: leave it out for no such limit"),
    ("max_hours", float("inf"), "--max-hours inf is not a number above 0"),
    ("patience", -1, "--patience -1 is not a number above 0: leave it out for no such limit"),
    ("gpus_per_trial", -1, "--gpus-per-trial -1"),
    ("gpus_per_trial", 1.5, "neither a share of one GPU nor a whole number"),
    ("cpus_per_trial", 0, "--cpus-per-trial 0 is not a number above 0: give a trial some CPU"),
    ("cache_limit", "lots", "--cache-limit 'lots' is not a size"),
    ("cache_limit", "4 gigs", "write it like 512MiB or 4GiB"),
    ("name", "a/b", "name 'a/b'"),
    ("name", "..", "name '..'"),
    ("seed", -1, "--seed -1"),
    ("budgets", (), "--budget"),
    ("quantize", ("int44",), "unknown precision 'int44' (did you mean 'int4'?)"),
    ("quantize", (), "--quantize names no precision: give none"),
    ("objective", "bits", "--objective 'bits'"),
    ("trails", 3, "unknown setting 'trails' (did you mean 'trials'?)"),
]


@pytest.mark.parametrize(("field", "value", "text"), WRONG)
def test_a_wrong_setting_is_one_line_that_names_it(field: str, value: Any, text: str) -> None:
    with pytest.raises(AutoPruneError) as caught:
        make_settings({field: value})
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_walk_takes_no_warm_start() -> None:
    """Its first cells would be left out, since a walk goes by the numbers of its trials."""
    with pytest.raises(
        AutoPruneError, match="--warm-start old tells a sampler, and --sampler grid"
    ):
        make_settings({"space": "paper", "sampler": "grid", "warm_start": ("old",)})


def test_a_walk_takes_no_refinement() -> None:
    walk = {"space": "paper", "sampler": "grid"}
    assert make_settings(walk).refine == 0
    with pytest.raises(AutoPruneError, match=r"--refine 0\.5 would leave out cells"):
        make_settings({**walk, "refine": 0.5})


def test_settings_survive_json() -> None:
    settings = make_settings({"budgets": ("3B-params",), "tasks": ("digits_read",), "seed": 3})
    assert SearchSettings.model_validate_json(settings.model_dump_json()) == settings


def test_the_default_name_follows_what_is_searched() -> None:
    one, other = make_settings({"seed": 1}), make_settings({"seed": 2})
    assert one.name == make_settings({"seed": 1, "workers": 9}).name
    assert one.name != other.name


@pytest.mark.parametrize("field", sorted(FREE & {"trials", "workers", "max_hours", "home"}))
def test_free_settings_leave_the_identity(field: str) -> None:
    values = {"trials": 99, "workers": 9, "max_hours": 1.0, "home": Path("/elsewhere")}
    assert make_settings({field: values[field]}).identity() == make_settings({}).identity()


def test_bytes_are_the_objective_where_the_backbone_is_quantised() -> None:
    assert make_settings({}).objective == "params"
    for named in (("int8",), ("int4", "none"), ("none", "int8", "int4", "int8")):
        settings = make_settings({"quantize": named})
        assert settings.objective == "bytes"
        assert SearchSettings.model_validate_json(settings.model_dump_json()) == settings
    # The order in which precisions are typed says nothing.
    assert make_settings({"quantize": ("int4", "none")}).precisions == ("float32", "int4")
    assert make_settings({"objective": "bytes"}).precisions == ("float32",)
    with pytest.raises(AutoPruneError, match=r"--objective params does not see .*--quantize int8"):
        make_settings({"quantize": ("int8",), "objective": "params"})


@pytest.mark.parametrize("field", sorted(LATER))
def test_later_settings_leave_the_identity_at_their_default(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a search of an earlier version keeps its name, and can be resumed."""
    assert field not in make_settings({}).fixed()
    values = {
        "quantize": ("int8",),
        "objective": "bytes",
        "deployable": "stock",
        "multiple": 8,
        "refine": 0.5,
        "rung_share": 0.5,
        "warm_baselines": False,
        "warm_start": ("a",),
        "task_data": ("pope=.",),
        "capabilities": ("pope=reading",),
        "floors": ("pope=0.9",),
        "columns": ("question=ask",),
        "max_length": 99,
        "data_identity": "abc",
        "device": "l4",
        "context": 99,
        "images_per_prompt": 2,
        "image_tokens": 9,
        "timed": True,
        "cost_model": "theirs",
    }
    monkeypatch.setattr(running, "plugin_names", lambda group: ("theirs",))
    # Latency is that of a device; how data is read needs some data.
    data = {"data": ("a.json",), "data_identity": "d"}
    beside = {"timed": {"device": "l4"}, "columns": data, "max_length": data}.get(field, {})
    changed = make_settings({**beside, field: values[field]})
    assert changed.identity() != make_settings(beside).identity()


# settings, and the identity that they had when one class of one module held them all
KNOWN: list[tuple[dict[str, Any], str]] = [
    ({}, "c7ed1e2442649b7c"),
    ({"budgets": ("3B-params",), "seed": 3}, "5f2b71c307df15fa"),
    ({"quantize": ("none", "int4"), "refine": 0.0}, "57e24906ed7458ef"),
    ({"deployable": "stock", "multiple": 8, "max_hours": 2.0}, "4f5960225c630d61"),
    ({"space": "paper", "sampler": "grid"}, "06c66c048b998fea"),
    (
        {"tasks": ("digits_read",), "floors": ("digits_read=0.9",), "search_samples": 64},
        "a9339b7a25ad6c29",
    ),
    (
        {"data": ("a.json",), "data_identity": "d", "columns": ("question=ask",)},
        "5b0fdedd0efb94d9",
    ),
    ({"objective": "memory", "device": "l4", "timed": True, "context": 99}, "bbbf744c7a8604f2"),
]


@pytest.mark.parametrize(("values", "identity"), KNOWN)
def test_the_identity_of_a_search_stays(values: dict[str, Any], identity: str) -> None:
    """Or searches that have begun could not be resumed: it also names those without a name."""
    settings = make_settings(values)
    assert settings.identity() == identity
    assert settings.name == f"search-{identity[:6]}"


def test_no_part_of_the_settings_takes_the_place_of_anothers() -> None:
    """Pydantic keeps validators by their name, whatever class they are of."""
    names = [
        name
        for base in SearchSettings.__bases__
        for name in vars(base)
        if callable(getattr(base, name)) and not name.startswith("__")
    ]
    assert {name for name in names if names.count(name) > 1} <= {"model_post_init"}
    assert len(names) > 10


def test_sizes() -> None:
    assert make_settings({"cache_limit": "1.5GiB"}).cache_bytes == 3 * 2**29


@pytest.mark.parametrize(
    ("typed", "whole"),
    [
        ("pope:pope_f1_score", "pope:pope_f1_score"),
        ("own.yaml", "{here}/own.yaml"),
        ("a.yaml.d/own.yml:acc", "{here}/a.yaml.d/own.yml:acc"),
        ("/else/own.yaml", "/else/own.yaml"),
    ],
)
def test_task_files_are_written_with_their_whole_path(typed: str, whole: str) -> None:
    settings = make_settings({"tasks": (typed,), "task_data": ("pope=copy",)})
    assert settings.tasks == (whole.format(here=Path.cwd()),)
    assert settings.task_data == (f"pope={Path.cwd()}/copy",)


def test_data_and_devices_are_written_with_their_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llava(tmp_path)
    monkeypatch.chdir(tmp_path)
    asked = {"data": ("mine.json=2",), "images": "images", "device": "./own.json"}
    settings = make_settings(asked)
    assert settings.data == (f"{tmp_path}/mine.json=2",)
    assert settings.images == f"{tmp_path}/images"
    assert settings.device == f"{tmp_path}/own.json"
    monkeypatch.chdir("/")
    assert make_settings(settings.model_dump()).data_identity == settings.data_identity
    assert make_settings({"device": "here"}).device == "here"
