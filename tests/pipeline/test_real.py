"""A model of its own directory: worked with in its own precision, its weights left in its files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autoprune.deploy.apply import _largest
from autoprune.errors import AutoPruneError
from autoprune.evaluation.tasks import resolve_tasks
from autoprune.models.arrays import to_array
from autoprune.models.loading import load_model, quiet
from autoprune.models.source import WeightSource
from autoprune.pipeline.assets import Assets
from autoprune.pipeline.candidate import Candidate
from autoprune.pipeline.prepare import (
    Preparation,
    dense_model,
    inspect,
    prepare,
    working_precision,
)
from autoprune.pipeline.run import Bench
from autoprune.pruning.allocation import allocate
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.scores import scores
from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.resources import Resources
from autoprune.zoo import embedded_path


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Preparation:
    """The embedded model as a checkpoint of its own, in half precision."""
    directory = tmp_path_factory.mktemp("model")
    loaded = load_model(embedded_path())
    with quiet():
        loaded.model.to(torch.float16).save_pretrained(directory)
        loaded.processor.save_pretrained(directory)
    return Preparation(
        model=str(directory),
        tasks=resolve_tasks(["digits_read", "digits_colour"]),
        splits=(("search", 16),),
        train_images=32,
        calibration_images=16,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def assets(wanted: Preparation, folder: Path) -> Assets:
    stages: list[str] = []
    made = prepare(wanted, folder, Resources(), stages.append)
    (line,) = [stage for stage in stages if stage.startswith("importance: peak")]
    peak = f"importance: peak {made.importance.peak_bytes / 2**30:.1f} GiB of memory"
    assert line == f"{peak}, Python and its libraries included"
    return made


def test_a_model_at_chance_is_refused_before_the_long_passes(
    wanted: Preparation, tmp_path: Path
) -> None:
    tasks = tuple(replace(task, chance=1.0) for task in wanted.tasks)
    stages: list[str] = []
    with pytest.raises(AutoPruneError, match=r"any of the 2 tasks \(best: digits_\w+ [01]\.\d"):
        prepare(replace(wanted, tasks=tasks), tmp_path, Resources(), stages.append)
    assert stages[-1].startswith("scoring the dense model")
    assert not any("importance" in stage for stage in stages)


def test_weights_stay_in_their_files(assets: Assets, wanted: Preparation, folder: Path) -> None:
    assert inspect(wanted.model).dtype == "float16"
    assert assets.precision == "bfloat16"
    assert isinstance(assets.weights, WeightSource)
    small, arrays = assets.split()
    assert len(small) < 300_000
    joined = Assets.join(small, arrays)
    assert next(dense_model(joined, torch.device("cpu")).parameters()).dtype == torch.bfloat16
    # For machines that do not see the files the same arrays travel.
    carried = prepare(wanted, folder, Resources(), in_place=False)
    _, more = carried.split()
    held = sum(len(a) for a in more.values()) - sum(len(a) for a in arrays.values())
    assert held >= 2 * assets.spec.total_params
    assert set(carried.weights) == set(assets.weights)
    for name, array in assets.weights.items():
        assert np.array_equal(carried.weights[name], array)


@pytest.mark.parametrize("scope", ["projector", "lora", "full"])
def test_a_candidate_in_half_precision(assets: Assets, scope: str) -> None:
    size = round(0.7 * assets.spec.total_params)
    plan = allocate(assets.spec, scores(assets.importance), Allocation(axis="width"), size)
    recipe = RecoveryRecipe(
        sft=0.5,
        hidden=0.5,
        reverse_kl=0.2,
        scope=scope,
        lora_rank=4,
        sample_passes=64,
        batch_size=8,
        learning_rate=1e-4 if scope == "full" else 1e-3,
    )
    run = Bench(assets, Resources()).start(Candidate(plan, recipe, assets.precision))
    pruned = run.rung(0.0, split=None)
    recovered = run.rung(1.0)
    assert recovered.proxy_kl < pruned.proxy_kl
    assert recovered.retention is not None
    assert math.isfinite(recovered.retention)
    finished = run.finish()
    assert {p.dtype for p in finished.parameters()} == {torch.bfloat16}
    # In full precision the same is measured, within what half precision rounds.
    full = replace(run.candidate, precision="float32")
    other = Bench(assets, Resources()).start(full)
    assert pruned.proxy_kl == pytest.approx(other.rung(0.0, split=None).proxy_kl, rel=0.1)
    assert recovered.proxy_kl == pytest.approx(other.rung(1.0, split=None).proxy_kl, rel=0.1)


def test_rebuilt_weights_are_compared_by_value() -> None:
    """Bits of bfloat16 stand in int16: their difference would say nothing."""
    one = to_array(torch.tensor([1.0, -2.0, 0.5], dtype=torch.bfloat16))
    other = to_array(torch.tensor([1.0, -2.5, 0.5], dtype=torch.bfloat16))
    assert _largest(one, other) == 0.5
    assert _largest(one, np.array([1.0, -2.0, 0.75], dtype=np.float32)) == 0.25


def test_shipped_models_are_worked_with_in_full_precision() -> None:
    assert inspect("embedded").dtype == "float16"
    assert working_precision(inspect("embedded")) == "float32"
