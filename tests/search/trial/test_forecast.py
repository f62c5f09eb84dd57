"""What a search is said to take: stopping, speed, stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.families import CASES
from support.search_toy import ToyProblem
from support.user_data import digits

from autoprune.cost.devices import Device
from autoprune.models.families import text_config
from autoprune.models.shape import meta_model, spec_of
from autoprune.pipeline.prepare import inspect
from autoprune.resources import Resources
from autoprune.search.knobs.space import load_space
from autoprune.search.problem import PipelineProblem, preparation
from autoprune.search.records.stages import Forecast, Stages
from autoprune.search.records.store import SearchStore, search_dir
from autoprune.search.settings import make_settings
from autoprune.search.trial import forecast as forecasts
from autoprune.search.trial.forecast import (
    WORKER_SECONDS,
    _Lengths,
    asked_about,
    front_expected,
    mark,
    set_mark,
)
from autoprune.search.trial.speed import Speed, measure_speeds, one_layer

HYBRID = load_space("hybrid")
LENGTHS = _Lengths(20, 2, 9.0, False, 1.0, 8, 0.0)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings that name 160 rows of data: 16 of them for search, 16 to confirm."""
    folder = tmp_path_factory.mktemp("own")
    return {"data": (str(digits(folder, 160)),), "images": str(folder / "images")}


@pytest.mark.parametrize("name", CASES)
def test_every_family_can_be_timed_narrowed(name: str) -> None:
    config = CASES[name].config()
    text = text_config(config)
    spec = spec_of(meta_model(config))
    narrow = one_layer(text, 0.5)
    assert narrow.num_hidden_layers == 1
    assert narrow.intermediate_size == round(0.5 * text.intermediate_size)
    found = measure_speeds(
        config, spec, 16, Resources(), share=0.5, scopes=["full", "lora", "none"], batch=2
    )
    assert all(0 < speed.forward < 1e-3 and speed.training > 0 for speed in found.values())
    assert found["none"].training == found["none"].forward


# settings, and the samples that are asked of search and confirm
ASKED: list[tuple[dict[str, Any], float, float]] = [
    ({"data": True}, 16.0, 16.0),
    ({"data": True, "search_samples": 9, "confirm_samples": 4000}, 9.0, 16.0),
    ({"data": True, "tasks": ("digits_read",)}, 384.0, 512.0),
    ({"tasks": ("digits_read",), "search_samples": 4000}, 4000.0, 512.0),
]


@pytest.mark.parametrize(("values", "search", "confirm"), ASKED)
def test_as_many_are_asked_as_there_are(
    values: dict[str, Any], search: float, confirm: float, own: dict[str, Any]
) -> None:
    given = {**values, **own} if values.get("data") else values
    wanted = preparation(make_settings(given))
    assert [asked_about(wanted, split, n, LENGTHS) for split, n in wanted.splits] == [
        search,
        confirm,
    ]


def test_own_data_is_forecast_by_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: dict[str, Any]
) -> None:
    """Scoring 16 rows takes a part of what 384 and 512 of the embedded data take."""
    monkeypatch.setattr(
        forecasts,
        "measure_speeds",
        lambda *args, scopes=("full",), **kwargs: dict.fromkeys(scopes, Speed(1e-11, 1e-11)),
    )
    beside = {"home": tmp_path, "max_recovery_samples": 1}
    mine, shipped = (
        PipelineProblem().forecast(make_settings({**beside, **more}), HYBRID) for more in (own, {})
    )
    assert mine.confirm < shipped.confirm / 5
    assert mine.trials - WORKER_SECONDS < (shipped.trials - WORKER_SECONDS) / 3


def test_preparation_is_known_to_be_there(tmp_path: Path) -> None:
    settings = make_settings({"home": tmp_path})
    wanted = preparation(settings)
    assert not mark(settings, wanted).is_file()
    set_mark(settings, wanted)
    assert mark(settings, wanted).is_file()
    other = make_settings({"home": tmp_path, "search_samples": 10})
    assert not mark(other, preparation(other)).is_file()


def test_stages_are_counted_over_sessions(tmp_path: Path) -> None:
    now = [0.0]
    store = SearchStore(search_dir(tmp_path, "toy"))
    store.open(make_settings({"name": "toy", "home": tmp_path}))

    def session(trials: int) -> Stages:
        return Stages(store, trials, clock=lambda: now[0])

    def count(stages: Stages, name: str, seconds: float) -> None:
        with stages.stage(name):
            now[0] += seconds

    first = session(12)
    assert first.fresh
    first.expect({"prepare": 5.0, "trials": 100.0, "confirm": 50.0})
    count(first, "prepare", 6.0)

    def interrupted() -> None:
        with first.stage("trials"):
            now[0] += 30.0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    second = session(12)
    assert not second.fresh
    for name, seconds in (("prepare", 1.0), ("trials", 80.0), ("confirm", 40.0)):
        count(second, name, seconds)
    found = {record.stage: (record.forecast, record.seconds) for record in second.records()}
    assert found == {"prepare": (5.0, 7.0), "trials": (100.0, 110.0), "confirm": (50.0, 40.0)}
    # A search that has grown was not forecast.
    assert {record.forecast for record in session(24).records()} == {None}


def test_forecast_sums_its_stages() -> None:
    expected = Forecast(1.0, 20.0, 300.0, disk=0, runs=1, tokens=1)
    assert expected.seconds == sum(expected.stages.values()) == 321.0
    assert ToyProblem().forecast(make_settings({}), HYBRID) is None


@pytest.mark.parametrize(("trials", "members"), [(0, 0), (1, 1), (5, 3.9), (9, 5.25), (16, 7)])
def test_front_holds_few_of_many_trials(trials: float, members: float) -> None:
    assert front_expected(trials) == pytest.approx(members, abs=0.02)


def test_confirmation_is_said_for_the_front_that_is_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []

    def fixed(*args: Any, share: float = 1.0, scopes: Any = ("full",), **kwargs: Any) -> Any:
        shares.append(share)
        return dict.fromkeys(scopes, Speed(1e-11, 1e-11))

    monkeypatch.setattr(forecasts, "measure_speeds", fixed)

    def said(most: int) -> Forecast:
        given = {"home": tmp_path, "trials": 12, "confirm_points": most, "warm_baselines": False}
        return PipelineProblem().forecast(make_settings(given), HYBRID)

    one, six, twelve = said(1), said(6), said(12)
    assert 1.0 in shares  # the dense model is timed as wide as it is
    assert min(shares) < 1.0
    # Of 12 trials some are stopped: fewer than six lie on the front, whatever is allowed.
    assert 3 < six.confirm / one.confirm < 6
    assert twelve.confirm == pytest.approx(six.confirm)
    assert six.prepare > forecasts.START_SECONDS
    set_mark(make_settings({"home": tmp_path}), preparation(make_settings({"home": tmp_path})))
    shares.clear()
    assert said(6).prepare == forecasts.START_SECONDS
    assert 1.0 not in shares


def test_timing_the_front_here_takes_time_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fixed(*args: Any, scopes: Any = ("full",), **kwargs: Any) -> Any:
        return dict.fromkeys(scopes, Speed(1e-11, 1e-11))

    monkeypatch.setattr(forecasts, "measure_speeds", fixed)
    entry = Device("here", "", "measured", 2**33, 1e9, {"float32": 1e12}, layer_seconds=0.01)
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "here.json").write_text(json.dumps(entry.to_dict()))

    def said(**more: Any) -> Forecast:
        given = {"home": tmp_path, "trials": 12, "confirm_points": 3, "warm_baselines": False}
        return PipelineProblem().forecast(make_settings({**given, **more}), HYBRID)

    usual, timed = said(), said(device="here")
    # A token of so many layers at 10 ms; 17 steps a round, three rounds, and the dense model.
    models = 1 + timed.runs // make_settings({}).confirm_seeds
    token = 0.01 * len(inspect("embedded").spec.layers)
    least = 51 * models * token
    assert least < timed.confirm - usual.confirm < 1.5 * least
    assert said(device="l4").confirm == pytest.approx(usual.confirm)
