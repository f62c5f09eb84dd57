"""The pipeline on the embedded model: prepared once, cached, and exact when it is paused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_imports import PACKAGE, imported_modules

from autoprune.cost.bytes import stored_bytes
from autoprune.errors import AutoPruneError
from autoprune.evaluation.retention import MARGIN, retention
from autoprune.evaluation.scores import TaskScores, restricted
from autoprune.evaluation.tasks import resolve_tasks
from autoprune.models import checkpoint
from autoprune.models.checkpoint import save_checkpoint
from autoprune.models.quantise import is_quantised, quantise
from autoprune.pipeline.assets import Assets
from autoprune.pipeline.cache import Cache, code_files
from autoprune.pipeline.candidate import Candidate
from autoprune.pipeline.prepare import Preparation, inspect, prepare
from autoprune.pipeline.run import Bench
from autoprune.pruning.allocation import allocate
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.scores import scores
from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.resources import Resources

WANTED = Preparation(
    model="embedded",
    tasks=resolve_tasks(["digits_read", "digits_colour", "digits_count"]),
    splits=(("search", 24), ("confirm", 16)),
    train_images=96,
    calibration_images=24,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def assets(folder: Path) -> Assets:
    return prepare(WANTED, folder, Resources())


@pytest.fixture(scope="module")
def bench(assets: Assets) -> Bench:
    small, arrays = assets.split()
    for array in arrays.values():
        array.flags.writeable = False
    return Bench(Assets.join(small, arrays), Resources())


def candidate(
    assets: Assets, recovery: str = "sft+hidden", scope: str = "full", size: float = 0.6
) -> Candidate:
    plan = allocate(
        assets.spec,
        scores(assets.importance),
        Allocation(axis="hybrid", depth_share=0.3),
        round(size * assets.spec.total_params),
    )
    losses = dict.fromkeys(recovery.split("+"), 0.5)
    weights = {"sft": 0.0, **losses}
    recipe = RecoveryRecipe(**weights, scope=scope, lora_rank=4, sample_passes=64, batch_size=8)
    return Candidate(plan, recipe)


def test_a_second_preparation_only_loads(assets: Assets, folder: Path) -> None:
    stages: list[str] = []
    again = prepare(WANTED, folder, Resources(), stages.append)
    assert stages == ["loading the dense model"]
    assert again.exams["search"].dense.by_task == assets.exams["search"].dense.by_task
    np.testing.assert_array_equal(
        again.importance.block_influence, assets.importance.block_influence
    )


def test_tasks_are_found_from_any_working_directory(
    assets: Assets, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    again = prepare(WANTED, Path(folder.name), Resources())
    monkeypatch.chdir(tmp_path)  # as trials do
    assert all(exam.folder.is_dir() for exam in again.exams.values())


def test_assets_come_apart_and_together_without_copies(assets: Assets) -> None:
    small, arrays = assets.split()
    assert len(small) < 200_000
    joined = Assets.join(small, arrays)
    held = sum(array.nbytes for array in arrays.values())
    assert held >= sum(array.nbytes for array in assets.weights.values())
    for name, array in assets.weights.items():
        np.testing.assert_array_equal(joined.weights[name], array)
        assert any(np.shares_memory(joined.weights[name], part) for part in arrays.values())


@pytest.mark.parametrize("scope", ["full", "lora"])
def test_a_run_that_is_saved_and_loaded_equals_one_in_one_go(
    bench: Bench, assets: Assets, scope: str, tmp_path: Path
) -> None:
    wanted = candidate(assets, "sft+reverse_kl+hidden", scope)
    whole = bench.start(wanted)
    straight = whole.rung(1.0)

    first = bench.start(wanted)
    first.rung(0.0, split=None)
    first.rung(0.5)
    first.save(tmp_path)
    second = bench.start(wanted)
    second.load(tmp_path)
    resumed = second.rung(1.0)

    assert resumed.per_task == straight.per_task
    assert resumed.proxy_kl == straight.proxy_kl
    for (name, a), (_, b) in zip(
        whole.finish().named_parameters(), second.finish().named_parameters(), strict=True
    ):
        assert torch.equal(a, b), name


def test_a_part_of_an_exam_is_measured_against_the_same_part_of_the_dense_scores(
    bench: Bench, assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bench.start(candidate(assets))
    whole = run.rung(0.0)
    assert run.rung(0.0, fraction=0.5).retention == whole.retention  # 24 images are few: all
    monkeypatch.setattr("autoprune.pipeline.run.LEAST_IMAGES", 8)
    part = run.rung(0.0, fraction=0.5)
    assert part.scores is not None
    assert whole.scores is not None
    assert part.flops < whole.flops
    assert 0 < part.scores.questions < whole.scores.questions
    # The part's answers are those of the whole, and so is what the dense model makes of them.
    dense = assets.exams["search"].dense
    for task in part.scores.tasks:
        place = {doc: row for row, doc in enumerate(whole.scores[task.name].docs.tolist())}
        rows = [place[doc] for doc in task.docs.tolist()]
        assert np.array_equal(task.values, whole.scores[task.name].values[rows])
        score = restricted(dense, part.scores)[task.name].score
        assert score == dense[task.name].values[rows].mean()
    assert part.retention == retention(part.scores, restricted(dense, part.scores)).value
    # A share that leaves a task without questions is not taken.
    monkeypatch.setattr("autoprune.pipeline.run.LEAST_IMAGES", 1)
    assert bench.part("search", 1e-3) == 1.0


def test_a_part_on_which_a_task_no_longer_counts_is_not_taken(
    bench: Bench, assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its retention would be of other tasks than the end's, or of none."""
    monkeypatch.setattr("autoprune.pipeline.run.LEAST_IMAGES", 8)
    asked = bench.evaluator("search", 0.5).docs["digits_read"]
    exam = assets.exams["search"]
    task = exam.dense["digits_read"]
    values = np.where(np.isin(task.docs, asked), 0.0, 1.0)
    weak = replace(task, values=values, score=float(values.mean()))
    assert weak.score - weak.chance > MARGIN
    tasks = tuple(weak if t.name == "digits_read" else t for t in exam.dense.tasks)
    exams = {**assets.exams, "search": replace(exam, dense=TaskScores(tasks))}
    found = Bench(replace(assets, exams=exams), Resources(), ["search"])
    assert bench.part("search", 0.5) == 0.5
    assert found.part("search", 0.5) == 1.0


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_quantised_candidate_is_scored_as_it_is_kept(
    bench: Bench, assets: Assets, precision: str
) -> None:
    wanted = candidate(assets, scope="lora")
    plain, quantised = bench.start(wanted), bench.start(replace(wanted, precision=precision))
    # Below full fidelity it is the unquantised candidate.
    assert plain.rung(0.5).proxy_kl == quantised.rung(0.5).proxy_kl
    before, after = plain.rung(1.0), quantised.rung(1.0)
    assert 0 < abs(after.proxy_kl - before.proxy_kl) < before.proxy_kl
    assert "quantise" in after.seconds
    # What is kept is unquantised; quantising that gives what was scored.
    kept = quantised.finish()
    for (name, a), (_, b) in zip(
        plain.finish().named_parameters(), kept.named_parameters(), strict=True
    ):
        assert torch.equal(a, b), name
    quantise(kept, precision)
    again = bench.evaluator("search").evaluate(kept, assets.exams["search"].features)
    assert again.by_task == after.per_task == quantised.score("search").by_task


def test_half_precision_is_quantised_beside_half_precision(bench: Bench, assets: Assets) -> None:
    run = bench.start(replace(candidate(assets), precision="int8-bf16"))
    assert run.rung(1.0).retention is not None
    assert {p.dtype for p in run.model.parameters()} == {torch.bfloat16}
    assert sum(is_quantised(p) for p in run.model.parameters()) > 7
    plan = run.candidate.plan
    stored = sum(
        p.numel() * p.element_size() for p in run.finish().parameters() if not is_quantised(p)
    )
    assert stored == stored_bytes(assets.spec, plan, "bfloat16")


def test_a_quantised_model_is_not_searched(
    bench: Bench, assets: Assets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bench.start(candidate(assets)).finish()
    quantise(model, "int8")
    monkeypatch.setattr(checkpoint, "prove_reload", lambda directory, reference: None)
    save_checkpoint(model, assets.processor, tmp_path / "small")
    with pytest.raises(AutoPruneError, match=r"quantised already .int8.*unquantised model"):
        inspect(str(tmp_path / "small"))


def test_another_candidates_state_is_refused(bench: Bench, assets: Assets, tmp_path: Path) -> None:
    first = bench.start(candidate(assets))
    first.save(tmp_path)
    with pytest.raises(ValueError, match="another candidate"):
        bench.start(candidate(assets, "sft")).load(tmp_path)


def test_rungs_tell_what_was_spent(bench: Bench, assets: Assets) -> None:
    run = bench.start(candidate(assets, size=0.35))
    pruned = run.rung(0.0, split=None)
    assert pruned.scores is None
    assert pruned.retention is None
    assert pruned.proxy_kl > 0
    half, whole = run.rung(0.5), run.rung(1.0)
    assert whole.flops == pytest.approx(half.flops)
    assert set(half.seconds) == {"recover", "proxy", "evaluate"}
    assert set(pruned.seconds) == {"prune", "recover", "proxy"}
    assert whole.retention is not None
    assert whole.proxy_kl < pruned.proxy_kl


def test_shared_weights_are_never_changed(bench: Bench, assets: Assets) -> None:
    before = {name: array.copy() for name, array in bench.assets.weights.items()}
    bench.start(candidate(assets)).rung(1.0, split=None)
    for name, array in bench.assets.weights.items():
        np.testing.assert_array_equal(array, before[name])


def test_a_small_cache_limit_computes_online_and_agrees(assets: Assets, folder: Path) -> None:
    wanted = Preparation(**{**WANTED.__dict__, "cache_limit": 1000})
    online = prepare(wanted, folder, Resources())
    assert online.teacher.hidden is None
    assert online.train.pixel_values is not None
    results = [
        Bench(one, Resources(), ["search"]).start(candidate(assets)).rung(0.25)
        for one in (assets, online)
    ]
    assert results[0].proxy_kl == pytest.approx(results[1].proxy_kl, rel=2e-2)


def test_candidates_round_trip_as_json(assets: Assets) -> None:
    one = candidate(assets)
    again = Candidate.from_dict(json.loads(json.dumps(one.to_dict())))
    assert again == one
    assert again.identity == one.identity
    with pytest.raises(AutoPruneError, match="did you mean 'float32'"):
        Candidate(one.plan, one.recipe, "float23")


def test_what_is_kept_depends_on_all_code_that_made_it() -> None:
    """Every module that preparation imports counts, but for that of error messages."""
    modules, folder = PACKAGE, code_files(PACKAGE)
    todo, seen = [modules / "pipeline" / "prepare.py"], set[Path]()
    while todo:
        path = todo.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for name in imported_modules(path):
            parts = name.split(".")
            if parts[0] == "autoprune" and len(parts) > 1:
                place = modules.joinpath(*parts[1:])
                todo += [place.with_suffix(".py"), place / "__init__.py"]
    assert len(seen) > 40
    assert {p.relative_to(modules).as_posix() for p in seen - set(folder)} == {"errors.py"}


def test_cache_computes_anew_what_it_cannot_read(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    made = []

    def compute() -> int:
        made.append(1)
        return 7

    assert [cache.get("stage", ["a"], compute) for _ in range(3)] == [7, 7, 7]
    assert len(made) == 1
    assert cache.get("stage", ["b"], compute) == 7
    assert len(made) == 2
    for path in tmp_path.glob("stage-*.pkl"):
        path.write_bytes(path.read_bytes()[:-2])
    assert cache.get("stage", ["a"], compute) == 7
    assert len(made) == 3
