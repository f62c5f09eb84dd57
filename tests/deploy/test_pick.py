"""Which point is picked under which constraints, and why the others are not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.confirmed import IMAGES, finished_search

from autoprune.cost.latency import COST_MODELS
from autoprune.cost.machine import Machine, this_machine
from autoprune.deploy.pick.choose import Choice, Entry, choose
from autoprune.deploy.pick.limits import Limit, read_limits
from autoprune.deploy.pick.pick import Picked, pick, pick_named, reason
from autoprune.errors import AutoPruneError
from autoprune.pipeline.prepare import inspect
from autoprune.search.compare import Finished, read_finished
from autoprune.search.records.store import SearchStore
from autoprune.tracking.records.terms import Running
from autoprune.tracking.records.trial import KeepMap


@dataclass(frozen=True)
class Between:
    mean: float
    low: float
    high: float


NOISE = 0.02
# name -> retention, size, seconds
POINTS = {
    "tiny": (0.60, 10.0, 1.0),
    "small": (0.80, 20.0, 3.0),
    "equal": (0.81, 30.0, 2.0),
    "large": (0.90, 40.0, 4.0),
    "worse": (0.70, 50.0, 5.0),
}


def entries(names: Any = POINTS) -> list[Entry]:
    keys = ("retention", "params", "latency")
    return [Entry(name, dict(zip(keys, POINTS[name], strict=True))) for name in names]


def differ(one: str, other: str) -> Between:
    mean = POINTS[one][0] - POINTS[other][0]
    return Between(mean, mean - NOISE, mean + NOISE)


def most(figure: str, bound: float) -> Limit:
    return Limit(f"--max-{figure}", f"{bound:g}", figure, bound)


@pytest.mark.parametrize(
    ("limits", "cost", "winner", "runner", "ties"),
    [
        ([], "params", "large", "small", ()),  # without it, small and equal tie: the smaller
        ([most("params", 30)], "params", "small", "equal", ("equal",)),
        ([most("params", 30)], "latency", "equal", "small", ("small",)),  # a tie goes to the faster
        ([most("params", 30), most("latency", 2)], "latency", "equal", "tiny", ()),
        ([most("latency", 1)], "latency", "tiny", None, ()),
    ],
)
def test_the_best_that_fits_is_picked(
    limits: list[Limit], cost: str, winner: str, runner: str | None, ties: tuple[str, ...]
) -> None:
    found = choose(entries(), limits, cost, differ)
    assert found.winner is not None
    assert found.winner.name == winner
    assert (None if found.runner_up is None else found.runner_up.name) == runner
    assert found.ties == ties
    assert {lost.entry.name for lost in found.lost} == set(POINTS) - {winner}


def lost_of(found: Choice, name: str) -> Any:
    return next(lost for lost in found.lost if lost.entry.name == name)


def test_each_loser_has_its_reason() -> None:
    found = choose(entries(), [most("params", 40)], "params", differ)
    worse = lost_of(found, "worse")
    assert (worse.why, worse.missed[0][1]) == ("limit", 0.25)
    small = lost_of(found, "small")
    assert (small.why, small.by, small.dominated) == ("beaten", "large", False)
    assert small.difference.mean == pytest.approx(-0.10)
    found = choose(entries(), [most("params", 30)], "params", differ)
    assert lost_of(found, "equal").why == "tied"
    found = choose(entries(), [], "params", differ)
    assert lost_of(found, "worse").dominated


def test_a_winner_is_beaten_by_nothing_that_fits() -> None:
    # b ties with the highest mean, a, and is cheapest, but c beats it beyond its interval.
    means = {"a": 0.90, "b": 0.85, "c": 0.89}
    wide = {frozenset("ab"): 0.06, frozenset("ac"): 0.06, frozenset("bc"): 0.01}

    def between(one: str, other: str) -> Between:
        mean, half = means[one] - means[other], wide[frozenset((one, other))]
        return Between(mean, mean - half, mean + half)

    points = [
        Entry(name, {"retention": mean, "params": size})
        for (name, mean), size in zip(means.items(), (30.0, 10.0, 20.0), strict=True)
    ]
    found = choose(points, [], "params", between)
    assert found.winner is not None
    assert found.winner.name == "c"
    assert lost_of(found, "b").by == "c"


def test_where_nothing_fits_the_nearest_is_named() -> None:
    found = choose(entries(), [most("params", 8), most("latency", 0.9)], "params", differ)
    assert found.winner is None
    assert found.nearest is not None
    assert found.nearest.name == "tiny"


FOUND = {0.30: 0.55, 0.45: 0.78, 0.46: 0.78, 0.58: 0.90}
BASES = {"uniform": (0.60, 0.70)}


def searched(home: Path, name: str, found: dict[float, float], **more: Any) -> Finished:
    store = finished_search(home, name, found, BASES, **more)
    summary = store.summary()
    assert summary is not None
    return read_finished(store, summary)


def chosen(found: Picked) -> str:
    assert found.choice.winner is not None
    return found.choice.winner.name


def test_a_search_is_picked_from(tmp_path: Path) -> None:
    one = searched(tmp_path, "one", FOUND)
    by_size = {round(r.fraction or 0, 2): f"one:{n}" for n, r in one.records.items()}
    assert chosen(pick([one])) == by_size[0.58]
    small = pick([one], read_limits(max_params="940K"))
    assert chosen(small) == by_size[0.45]
    assert by_size[0.46] in small.choice.ties
    reasons = {lost.entry.name: reason(small, lost) for lost in small.choice.lost}
    assert "misses --max-params 940K by 23.4%" in reasons[by_size[0.58]]
    assert f"ties with {by_size[0.45]}" in reasons[by_size[0.46]]
    assert f"keeps less than {by_size[0.45]}" in reasons[by_size[0.30]]
    assert small.export.startswith(f"autoprune export {by_size[0.45]} --home {tmp_path} --rebuild")
    plain = small.to_dict()
    assert plain["winner"]["params"] == 900_000
    assert plain["runner_up"]["name"] == by_size[0.46]
    assert plain["constraints"] == ["--max-params 940K"]


def test_the_confirmed_score_decides_not_the_searchs(tmp_path: Path) -> None:
    one = searched(tmp_path, "one", FOUND)
    told = pick([one])
    for record in one.records.values():  # the worst looked best while it was searched
        lucky = record.model_copy(update={"retention": 1.0 - (record.fraction or 0)})
        one.store.write_record(lucky)
    summary = one.store.summary()
    assert summary is not None
    again = pick([read_finished(one.store, summary)])
    assert chosen(again) == chosen(told)
    points = {p.trial: p for p in (*summary.points, *summary.baselines)}
    for candidate in again.candidates:
        point = points[candidate.point.trial]
        assert candidate.entry.figures["retention"] == pytest.approx(point.retention.mean)
        assert candidate.point.retention.low == pytest.approx(point.retention.low)
        assert candidate.point.retention.high == pytest.approx(point.retention.high)


def test_a_baseline_is_a_point_like_any_other(tmp_path: Path) -> None:
    one = searched(tmp_path, "one", {0.30: 0.55})
    found = pick([one], read_limits(min_retention=0.6))
    assert found.to_dict()["winner"]["baseline"] == "uniform"


def test_several_searches_are_one_choice(tmp_path: Path) -> None:
    one = searched(tmp_path, "one", FOUND)
    two = searched(tmp_path, "two", {0.5: 0.94}, draw=3)
    found = pick([one, two])
    assert chosen(found).startswith("two:")
    # The baseline that both ran answered alike, and is one point.
    assert [c.point.baseline for c in found.candidates].count("uniform") == 1


def test_answers_that_are_alike_in_fewer_bits_are_another_point(tmp_path: Path) -> None:
    one = searched(tmp_path, "one", {0.3: 0.5})
    base = one.summary.baselines[0]
    small = base.model_copy(update={"precision": "int8", "bytes": (base.bytes or 0) // 4})
    summary = one.summary.model_copy(update={"objective": "memory", "baselines": (small,)})
    bits = replace(one, store=SearchStore(tmp_path / "searches" / "bits"), summary=summary)
    picked = pick([one, bits]).to_dict()
    assert picked["winner"]["name"] == f"bits:{base.trial}"
    assert f"one:{base.trial}" in picked["ties"]
    assert picked["ties_go_to"] == "lowest bytes"


@pytest.mark.parametrize(
    ("names", "said"), [((), "no search is named"), (("one", "one"), "'one' is named twice")]
)
def test_each_search_is_named_once(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    searched(tmp_path, "one", FOUND)
    with pytest.raises(AutoPruneError, match=said):
        pick_named(names, home=tmp_path)


def test_a_floor_is_a_constraint(tmp_path: Path) -> None:
    one = searched(tmp_path, "one", {0.3: 0.7, 0.5: 0.9}, floors=("digits_read=0.85",))
    kept = {c.name: c.floors["digits_read"] for c in pick([one]).candidates}
    assert min(kept.values()) < 0.85 <= max(kept.values())
    assert kept[chosen(pick([one]))] >= 0.85  # the search's own floor holds
    easier = pick([one], read_limits(max_params="700K"), floors=["digits_read=0.5"])
    assert kept[chosen(easier)] < 0.85  # what is typed replaces it


def test_of_floors_of_several_searches_the_highest_holds(tmp_path: Path) -> None:
    high, low = (
        searched(
            tmp_path,
            f"s{10 * share:g}",
            FOUND,
            floors=(f"digits_read={share}",),
            draw=int(10 * share),
        )
        for share in (0.8, 0.5)
    )
    for pair in ([high, low], [low, high]):
        assert "--floor digits_read=0.8" in pick(pair).to_dict()["constraints"]


@pytest.mark.parametrize(
    ("typed", "more", "said"),
    [
        ({"max_params": "500K"}, {}, r"--max-params 500K cannot be met: the least is 600K"),
        ({"min_retention": 0.99}, {}, r"--min-retention 0.99 cannot be met: the most is 0\.\d+ \("),
        (
            {"max_params": "700K", "min_retention": 0.8},
            {},
            "each constraint can be met, but no point meets all of them; the nearest is one:",
        ),
        ({"max_latency": "40ms"}, {}, "--max-latency holds for a device"),
        ({}, {"floors": ["digits_raed=0.9"]}, "did you mean 'digits_read'"),
        ({}, {"floors": ["digits_read"]}, "is not NAME=VALUE"),
    ],
)
def test_what_cannot_be_had_is_said(
    typed: dict[str, Any], more: dict[str, Any], said: str, tmp_path: Path
) -> None:
    one = searched(tmp_path, "one", FOUND)
    with pytest.raises(AutoPruneError, match=said):
        pick([one], read_limits(**typed), **more)


def test_other_models_and_questions_are_refused(tmp_path: Path) -> None:
    one = searched(tmp_path, "one", FOUND)
    for name, more in {"two": {"identity": "f" * 16}, "three": {"images": IMAGES - 1}}.items():
        with pytest.raises(AutoPruneError, match=f"'one' and '{name}'"):
            pick([one, searched(tmp_path, name, FOUND, **more)])


def cut(home: Path, *, kept: bool = True) -> Finished:
    """A search of the embedded model, of which two points say what each layer keeps."""
    dense = inspect("embedded")
    one = searched(home, "real", {0.4: 0.8, 0.6: 0.9}, identity=dense.identity)
    heads = tuple(shape.heads for shape in dense.spec.layers)
    channels = tuple(shape.channels for shape in dense.spec.layers)
    for trial, record in one.records.items():
        thin = tuple(wide // (3 - min(trial, 2)) for wide in channels)
        keep = KeepMap(heads=heads, channels=thin, dense_heads=heads, dense_channels=channels)
        one.store.write_record(record.model_copy(update={"keep": keep if kept else None}))
    summary = one.store.summary()
    assert summary is not None
    return read_finished(one.store, summary)


def test_costs_are_modelled_for_a_device(tmp_path: Path) -> None:
    one = cut(tmp_path)
    found = pick([one], device="jetson-orin-nano-8gb", context=64)
    sized = sorted(found.candidates, key=lambda c: c.point.trial)
    assert all(c.latency is not None and c.latency.kind == "modelled" for c in sized)
    memory = [c.entry.figures["memory"] for c in sized]
    assert memory == sorted(memory)  # trial 0 keeps a third of the channels, 1 half, 2 all
    assert len(set(memory)) == 3
    bound = f"{int(memory[1])}B"
    held = pick([one], read_limits(max_memory=bound), context=64)
    assert held.of(chosen(held)).entry.figures["memory"] <= memory[1]
    with pytest.raises(AutoPruneError, match=r"--max-memory 1KiB cannot be met"):
        pick([one], read_limits(max_memory="1KiB"))
    with pytest.raises(AutoPruneError, match="beyond the 512 positions"):
        pick([one], context=100_000)


def test_images_are_as_large_as_the_search_had_them(tmp_path: Path) -> None:
    one = cut(tmp_path)
    running = Running(context=64, images=1, image_tokens=77, image="as then")
    one = replace(one, summary=one.summary.model_copy(update={"running": running}))
    found = pick([one], device="jetson-orin-nano-8gb", context=64)
    assert found.prompt is not None
    assert found.prompt.said == "64 tokens of text and 1 image of 77 tokens (as then)"


def test_time_here_is_measured_and_its_memory_is_a_limit(tmp_path: Path) -> None:
    found = pick([cut(tmp_path)], read_limits(max_latency="10s"), device="here", context=40)
    latency = found.of(chosen(found)).latency
    assert latency is not None
    assert latency.kind == "measured"
    assert latency.low is not None
    assert 0 < latency.low <= latency.seconds < 10
    assert found.cost == "latency"
    memory = next(limit for limit in found.limits if limit.figure == "memory")
    assert (memory.said, memory.bound) == ("memory of here", float(this_machine().memory))


def test_what_does_not_fit_this_machine_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = cut(tmp_path)
    sized = sorted(c.entry.figures["memory"] for c in pick([one], context=40).candidates)
    monkeypatch.setattr(Machine, "memory", property(lambda self: int(sized[0])))
    found = pick([one], device="here", context=40)
    timed = {c.name for c in found.candidates if c.latency is not None}
    assert timed == {chosen(found)}
    assert found.to_dict()["lost"][0]["why"] == "limit"
    assert "misses memory of here by" in reason(found, found.choice.lost[0])


def slow(*asked: Any) -> float:
    return 2.0


def test_what_the_search_used_models_the_time_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COST_MODELS.own, "slow", slow)
    one = cut(tmp_path)
    usual = pick([one], device="l4", context=40)
    other = pick([one], device="l4", context=40, cost_model="slow")
    for found, least, most in ((usual, 0.0, 1.0), (other, 2.0, 2.0)):
        for candidate in found.candidates:
            assert candidate.latency is not None
            assert candidate.latency.kind == "modelled"
            assert least <= candidate.latency.seconds <= most


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"device": "l4", "cost_model": "rooflin"}, "unknown cost model 'rooflin' .*'roofline'"),
        ({"cost_model": "roofline"}, "--cost-model roofline says the time .* name one by --device"),
        ({"device": "here", "cost_model": "roofline"}, "leave one of them out"),
    ],
)
def test_a_cost_model_that_says_nothing_is_refused(
    asked: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(AutoPruneError, match=said):
        pick([cut(tmp_path)], **asked)


def test_costs_need_the_plan_and_the_dense_model(tmp_path: Path) -> None:
    with pytest.raises(AutoPruneError, match="keeps of each layer is not recorded"):
        pick([cut(tmp_path, kept=False)], read_limits(max_memory="1GiB"))
    other = searched(tmp_path, "other", FOUND)
    with pytest.raises(AutoPruneError, match="is not the one that search 'other' cut"):
        pick([other], read_limits(max_memory="1GiB"))
