"""The plans of other methods: exact in size, each by its method's own rules, and repeatable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.cost.flops import flops_of
from autoprune.evaluation.proxy import kl_to_dense
from autoprune.evaluation.tasks import resolve_tasks
from autoprune.pipeline.assets import Assets
from autoprune.pipeline.prepare import Preparation, prepare
from autoprune.pruning.importance import measure
from autoprune.pruning.surgery import prune
from autoprune.resources import Resources
from experiments.cells import Cell
from experiments.peers import evopress
from experiments.peers.bench import COMMON, Given, Tools, plan_key, work
from experiments.peers.calibration import Calibration
from experiments.peers.catalogue import METHODS
from experiments.peers.flap import biases, metrics
from experiments.peers.kept import CHANNEL, GROUP, Kept, cut, fill, kept_of, ranked, target_of
from experiments.peers.methods import taylor_rows, taylor_sums
from experiments.peers.run import cells
from experiments.peers.torchpruning import ROUND_TO, available, decide

WANTED = Preparation(
    model="embedded",
    tasks=resolve_tasks(["digits_read", "digits_colour", "digits_count"]),
    splits=(("search", 8), ("report", 8)),
    train_images=32,
    calibration_images=16,
)
REMOVED = 0.45
EXACT = [name for name in METHODS if name != "shortgpt-whole"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module")
def assets(home: Path) -> Assets:
    return prepare(WANTED, home / "cache", Resources(1))


@pytest.fixture(scope="module")
def calibration(assets: Assets) -> Calibration:
    return Calibration(assets, flops_of(assets.config), images=16)


@pytest.fixture(autouse=True)
def _short_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    small = evopress.Budget(3, 3, 4, (2, 1), (1, 4))
    monkeypatch.setattr(evopress, "width_budget", lambda layers: small)
    monkeypatch.setattr(evopress, "drop_budget", lambda layers, dropped: small)
    monkeypatch.setattr("experiments.peers.torchpruning.STEPS", 3)


@pytest.fixture(params=EXACT)
def name(request: pytest.FixtureRequest) -> str:
    if request.param.startswith("tp-") and not available():
        pytest.skip("torch-pruning is not installed: pip install 'autoprune[experiments]'")
    return str(request.param)


def test_every_plan_meets_its_size_within_a_unit_and_comes_again(
    calibration: Calibration, name: str
) -> None:
    spec = calibration.spec
    built = METHODS[name].build(calibration, REMOVED, 0)
    built.plan.check(spec)
    size = spec.params_of(built.plan.shapes) + built.bias_params
    assert 0 <= target_of(spec, REMOVED) - size < spec.channel_params
    assert METHODS[name].build(calibration, REMOVED, 0).plan == built.plan


def test_whole_layers_go_and_the_size_is_the_next_smaller_one(calibration: Calibration) -> None:
    spec = calibration.spec
    built = METHODS["shortgpt-whole"].build(calibration, REMOVED, 0)
    assert set(built.plan.shapes) == {spec.layers[0]}
    gap = target_of(spec, REMOVED) - spec.params_of(built.plan.shapes)
    assert 0 <= gap < max(spec.layer_params)


def test_shortgpt_drops_the_layers_of_least_influence(calibration: Calibration) -> None:
    plan = METHODS["shortgpt"].build(calibration, REMOVED, 0).plan
    least = np.argsort(calibration.observed.influence)[:4]
    assert plan.dropped_layers == tuple(sorted(least.tolist()))


def test_influence_is_that_of_the_importance_pass(calibration: Calibration) -> None:
    # Over all tokens it lies between image tokens' and text tokens'.
    measured = calibration.assets.importance.block_influence
    seen = calibration.observed.influence
    assert (measured.min(1) - 1e-5 <= seen).all()
    assert (seen <= measured.max(1) + 1e-5).all()


def test_llm_pruner_spares_its_first_and_last_layers(calibration: Calibration) -> None:
    spec = calibration.spec
    kept = kept_of(METHODS["llm-pruner"].build(calibration, REMOVED, 0).plan, spec)
    assert kept.groups[[0, -1]].all()
    assert kept.channels[[0, -1]].all()
    inner = kept.channels[1:-1].sum(1)
    assert inner.max() - inner.min() <= 1
    assert not np.array_equal(taylor_rows(calibration, 0), taylor_rows(calibration, 1))


def test_taylor_sums_of_one_sample_are_those_of_the_importance_pass(
    calibration: Calibration,
) -> None:
    rows = np.array([3])
    groups, channels = taylor_sums(calibration, rows)
    found = measure(
        calibration.model, calibration.encoded, rows, features=calibration.teacher.features
    )
    np.testing.assert_allclose(groups, found.weight_taylor_groups, rtol=1e-3)
    np.testing.assert_allclose(channels, found.weight_taylor_channels, rtol=1e-3, atol=1e-7)


def test_flap_scores_are_standardised_and_its_biases_are_what_is_removed(
    calibration: Calibration,
) -> None:
    heads, channels = metrics(calibration)
    np.testing.assert_allclose(heads.mean(1), 0, atol=1e-9)
    np.testing.assert_allclose(channels.std(1, ddof=1), 1, atol=1e-9)
    spec = calibration.spec
    everything = Kept.everything(spec)
    assert all(not bias.any() for bias in biases(calibration, everything).values())
    nothing = Kept(~everything.groups, ~everything.channels)
    total, tokens = np.zeros(spec.hidden_size), 0
    valid: Any = None

    def read(_: Any, __: Any, output: torch.Tensor) -> None:
        nonlocal total, tokens
        total = total + output[valid].double().sum(0).numpy()
        tokens += int(valid.sum())

    handle = calibration.outputs(2)[1].register_forward_hook(read)
    with torch.no_grad():
        for batch in calibration.batches():
            valid = batch.valid
            calibration.losses(batch)
    handle.remove()
    found = biases(calibration, nothing)[2, "mlp"]
    np.testing.assert_allclose(found, total / tokens, rtol=1e-4, atol=1e-6)


def test_flap_keeps_what_its_ranking_keeps(calibration: Calibration) -> None:
    heads, channels = metrics(calibration)
    kept = kept_of(METHODS["flap-plan"].build(calibration, REMOVED, 0).plan, calibration.spec)
    worst_kept = np.sort(channels[kept.channels])
    assert np.median(channels[~kept.channels]) < worst_kept[0] + 0.1
    assert heads[kept.groups].mean() > heads[~kept.groups].mean()


def test_masks_are_what_surgery_builds(calibration: Calibration) -> None:
    assets = calibration.assets
    kept = kept_of(METHODS["evopress-drop"].build(calibration, REMOVED, 1).plan, assets.spec)
    model = prune(assets.config, assets.weights, kept.plan(assets.spec), torch.float32)
    teacher, rows = calibration.teacher, np.arange(4)
    assert teacher.hidden is not None
    alone = kl_to_dense(
        model,
        calibration.encoded,
        rows,
        teacher.hidden,
        teacher.head_weight,
        features=teacher.features,
    )
    assert evopress.divergence(calibration, kept, rows) == pytest.approx(alone, rel=1e-4)


def test_children_have_their_parents_size() -> None:
    dice = np.random.default_rng(0)
    parent: evopress.State = ((0, 1, 1, 1, 0), (3, 0, 5, 2, 2))
    for _ in range(50):
        child = evopress.mutated(parent, (1, 5), dice)
        assert [sum(kind) for kind in child] == [3, 12]
        assert all(
            0 <= level <= top for kind, top in zip(child, (1, 5), strict=True) for level in kind
        )
        changed = sum(
            abs(a - b)
            for x, y in zip(parent, child, strict=True)
            for a, b in zip(x, y, strict=True)
        )
        assert changed <= 2 * evopress.MUTATIONS


def test_evolution_brings_the_divergence_down_and_counts_its_cost(
    calibration: Calibration,
) -> None:
    search = evopress.Evolution(calibration, (8, 16), (1, 16), 0)
    before = search.flops
    state, notes, flops = search.run((40, 80), evopress.Budget(2, 6, 8, (2, 1), (2, 16)))
    assert [sum(levels) for levels in state] == [40, 80]
    assert notes["course"][-1] < notes["course"][0]
    assert flops > before > 0


def test_ranking_meets_a_size_and_leaves_a_unit_everywhere(calibration: Calibration) -> None:
    spec = calibration.spec
    everything = Kept.everything(spec)
    dice = np.random.default_rng(0)
    order = ranked(dice.random(everything.groups.shape), dice.random(everything.channels.shape))
    smallest = spec.outside_params + round(0.1 * spec.backbone_params)
    for target in (smallest, target_of(spec, 0.3), spec.total_params):
        kept = cut(spec, everything, order, target)
        assert kept.groups.any(1).all()
        assert kept.channels.any(1).all()
        assert 0 <= target - kept.params(spec) < spec.channel_params
    none = Kept(~everything.groups, ~everything.channels)
    assert not fill(spec, none, order, spec.total_params).channels.any()
    assert order[0][0] in (GROUP, CHANNEL)


@pytest.mark.skipif(not available(), reason="torch-pruning is not installed")
def test_torch_pruning_decides(calibration: Calibration) -> None:
    equal, importance = decide(calibration, 0.3, everywhere=False)
    assert (
        len({(g, c) for g, c in zip(equal.groups.sum(1), equal.channels.sum(1), strict=True)}) == 1
    )
    assert (equal.channels.sum(1) % ROUND_TO == 0).all()
    for layer, row in enumerate(importance):
        assert row[~equal.channels[layer]].max() <= row[equal.channels[layer]].min()
    other, _ = decide(calibration, 0.3, everywhere=True)
    assert len(set(other.channels.sum(1).tolist())) > 1
    assert calibration.model.get_input_embeddings().weight.shape[1] == calibration.spec.hidden_size


def test_a_tuning_starts_with_the_common_recipe_and_ends_with_its_cost(
    assets: Assets, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.peers.catalogue.PASSES", 32)
    tools = Tools(Given(WANTED, home, home / "plans.jsonl", 1.2e11))
    what = {"model": "embedded", "method": "flap", "removed": REMOVED, "plan": 0}
    key = plan_key("embedded", "flap", REMOVED, 5)
    assert key.endswith("/0")
    plan = work(tools, Cell(key, {**what, "stage": "plans"}))
    tools.__dict__["plans"] = {key: {**what, **plan}}
    tuned = work(tools, Cell(key, {**what, "stage": "tune", "seed": 0}))
    assert tuned["trials"][0]["knobs"] == COMMON
    assert len(tuned["trials"]) > 1
    assert tuned["flops"] - tuned["trials"][-1]["flops"] < 1.2e11 <= tuned["flops"]
    cell = {**what, "stage": "tuned", "seed": 7, "knobs": tuned["knobs"]}
    assert work(tools, Cell(key, cell))["after"] == work(tools, Cell(key, cell))["after"]
    recipe = tools.recipe(COMMON, REMOVED, 3)
    assert (recipe.scope, recipe.sft, recipe.hidden, recipe.seed) == ("full", 0.5, 0.5, 3)
    run = tools.start(tools.built(what), recipe)
    trained = [name for name in run.recovery.parameters if name.endswith("down_proj.bias")]
    assert len(trained) == len(assets.spec.layers)


def test_cells_are_distinct_and_tuned_ones_follow_their_tuning() -> None:
    plans = cells("m", "plans", 1, 3, lambda name: {})
    assert len({cell.key for cell in plans}) == len(plans)
    of_seeds = {c.what["method"] for c in plans if c.what["plan"]}
    assert of_seeds == {name for name, method in METHODS.items() if method.seeded}
    common = cells("m", "common", 3, 1, lambda name: {})
    assert {cell.what["plan"] for cell in common} == {0}
    assert {cell.what["seed"] for cell in common} == {1000, 1001, 1002}
    row = {"knobs": dict(COMMON)}
    tuned = cells(
        "m", "tuned", 2, 1, lambda name: dict.fromkeys(["m/flap/0.45/0/0", "m/flap/0.45/0/1"], row)
    )
    assert [(cell.what["tuning"], cell.what["seed"]) for cell in tuned] == [
        (0, 1000),
        (0, 1001),
        (0, 1002),
        (1, 1001),
    ]
