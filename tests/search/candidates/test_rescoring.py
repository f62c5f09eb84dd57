"""Importance measured again while a cut goes on: nested, exact, the same again, and paid for."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models import tiny_model
from support.samples import sample_set
from support.trial_bench import open_bench

from autoprune.models.arrays import state_arrays
from autoprune.models.shape import spec_of
from autoprune.pruning.importance import measure
from autoprune.pruning.plan import LayerPlan, dense_plan
from autoprune.pruning.rescore import gone_last, lift, part_way
from autoprune.pruning.scores import Importance, scores
from autoprune.pruning.surgery import prune
from autoprune.search.trial.bench import TrialBench
from autoprune.search.work import TrialJob


def cut(model: Any, heads: tuple[int, ...], channels: tuple[int, ...]) -> Any:
    """Layer 1 thinner, layer 2 gone, layer 3 without its MLP."""
    plan = dense_plan(spec_of(model))
    whole = plan.layers
    last = LayerPlan(3, whole[3].heads, ())
    return replace(plan, layers=(whole[0], LayerPlan(1, heads, channels), last))


@pytest.mark.parametrize("heads", [(0, 1), (1, 2), (0, 1, 2, 3)])
def test_what_is_measured_stands_at_the_dense_units(heads: tuple[int, ...]) -> None:
    model, encoded = tiny_model(gqa=True), sample_set()
    dense = measure(model, encoded, range(5))
    plan = cut(model, heads, (2, 5, 11))
    small = prune(model.config, state_arrays(model), plan)
    found = measure(small, encoded, range(5))
    lifted = lift(found, plan, dense)
    channels = lifted.gate_taylor_channels
    assert np.array_equal(channels[1, [2, 5, 11]], found.gate_taylor_channels[1, :3])
    assert np.isnan(np.delete(channels[1], [2, 5, 11], axis=0)).all()
    groups = sorted({head // 2 for head in heads})
    assert np.array_equal(
        lifted.activation_groups[1, groups], found.activation_groups[1, : len(groups)]
    )
    assert np.isfinite(lifted.weight_taylor_heads[1, list(heads)]).all()
    assert np.isnan(lifted.weight_taylor_heads[1]).sum() == 4 - len(heads)
    for field in fields(Importance):
        values = getattr(lifted, field.name)
        if isinstance(values, np.ndarray):
            assert values.shape == getattr(dense, field.name).shape
            if not field.name.endswith("_params"):
                assert np.isnan(values[2]).all()
    assert np.array_equal(lifted.block_influence[3], found.block_influence[2])
    assert np.isnan(lifted.mlp_influence[3]).all()
    for criterion in ("taylor", "weight_taylor", "activation", "magnitude"):
        ranked = gone_last(scores(lifted, criterion))
        assert np.isfinite(ranked.channels).all()
        gone = np.delete(ranked.channels[1], [2, 5, 11])
        assert gone.max() < 0 <= ranked.channels[1, [2, 5, 11]].min()
        assert ranked.layers.argmin() == 2


def test_ten_steps_lead_from_dense_to_the_wanted_plan() -> None:
    model = tiny_model(gqa=True)
    found = scores(measure(model, sample_set(), range(4)))
    start, wanted = dense_plan(spec_of(model)), cut(model, (0, 1), tuple(range(0, 24, 3)))
    now, sizes = start, [spec_of(model).total_params]
    for step in range(1, 11):
        now = part_way(now, wanted, found, step, 10)
        sizes.append(spec_of(model).params_of(now.shapes))
    assert now == wanted
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 5
    coarse = part_way(start, wanted, found, 5, 10, multiple=8)
    assert len(coarse.layers[1].channels) % 8 == 0


def test_what_is_gone_stays_gone_where_a_later_plan_wants_it() -> None:
    """Scores that are measured anew may want units of a sublayer that has been dropped."""
    model = tiny_model(gqa=True)
    found = scores(measure(model, sample_set(), range(4)))
    start = dense_plan(spec_of(model))
    first, *rest = start.layers
    now = replace(start, layers=(replace(first, heads=()), *rest))
    wanted = replace(start, layers=(replace(first, heads=first.heads[:2]), *rest))
    for step in (1, 10):
        assert part_way(now, wanted, found, step, 10).layers[0].heads == ()


# ---- on the embedded model

DECAYS = ("cosine", "linear")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> TrialBench:
    return open_bench(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("axis", ["width", "hybrid"])
def test_a_rescored_trial_is_exact_repeatable_and_paid_for(tools: TrialBench, axis: str) -> None:
    knobs = {"size": 0.5, "axis": axis, "rescore": "tenths", "depth_share": 0.5, "temperature": 1.0}
    run = tools.start(TrialJob(0, knobs, 0))
    spec, plan = tools.work.context.spec, run.run.candidate.plan
    assert 0 <= 1_100_000 - spec.params_of(plan.shapes) < spec.attention_group_params
    once = tools.candidate({**knobs, "rescore": "once"}, 0)
    assert once.plan != plan
    # Another process, a confirmation with another seed, a rebuild: the same plan.
    other = TrialBench(tools.bench, tools.work)
    assert other.candidate(knobs, 1).plan == plan
    assert run.describe()["plan"] == plan.identity
    first, second = run.rung(0.0, evaluate=False), run.rung(0.5, evaluate=False)
    plain = tools.start(TrialJob(1, {**knobs, "rescore": "once"}, 0)).rung(0.0, evaluate=False)
    assert first.seconds["rescore"] > 0
    assert "rescore" not in second.seconds
    assert "rescore" not in plain.seconds
    assert first.flops > 5 * plain.flops


def test_what_is_shared_costs_each_trial_its_flops_and_the_first_its_time(
    tools: TrialBench, tmp_path: Path
) -> None:
    """A trial costs what it would alone, whatever its worker ran before."""
    knobs = {"size": 0.4, "axis": "width", "rescore": "tenths"}
    alone = TrialBench(tools.bench, tools.work).start(TrialJob(0, {**knobs, "decay": "linear"}, 0))
    bench = TrialBench(tools.bench, tools.work)
    runs = [bench.start(TrialJob(n, {**knobs, "decay": d}, 0)) for n, d in enumerate(DECAYS)]
    costs = [run.rung(0.0, evaluate=False) for run in (alone, *runs)]
    assert costs[0].flops == costs[1].flops == costs[2].flops
    assert costs[1].seconds["rescore"] > 0
    assert costs[2].seconds["rescore"] == 0
    # Nor does a trial pay twice that another worker goes on with.
    runs[0].rung(0.5, evaluate=False)
    runs[0].save(tmp_path)
    again = TrialBench(tools.bench, tools.work).start(TrialJob(0, {**knobs, "decay": "cosine"}, 0))
    again.load(tmp_path)
    went_on, undisturbed = again.rung(1.0, evaluate=False), runs[0].rung(1.0, evaluate=False)
    assert went_on.flops == undisturbed.flops
