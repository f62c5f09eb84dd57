"""Tasks that bring their own documents on the way of a trial: prepared, recovered, scored."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.benchmarks import write
from support.yaml_tasks import write_tasks

from autoprune.evaluation.tasks import resolve_tasks
from autoprune.pipeline.assets import Assets
from autoprune.pipeline.candidate import Candidate
from autoprune.pipeline.prepare import Preparation, prepare
from autoprune.pipeline.run import Bench
from autoprune.pruning.allocation import allocate
from autoprune.pruning.knobs import Allocation
from autoprune.pruning.scores import scores
from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.resources import Resources


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    place = tmp_path_factory.mktemp("own")
    files = write_tasks(place, 40)
    mme = write("mme", place)
    wanted = Preparation(
        model="embedded",
        tasks=resolve_tasks([*map(str, files), "mme", "digits_read"], data=[f"mme={mme}"]),
        splits=(("search", 10), ("confirm", None)),
        train_images=48,
        calibration_images=12,
    )
    return prepare(wanted, place / "cache", Resources())


def test_every_rung_scores_tasks_of_all_kinds(assets: Assets, tmp_path: Path) -> None:
    search, confirm = (assets.exams[name] for name in ("search", "confirm"))
    assert {t.name: t.maximum for t in search.tasks}["mme"] == 2800.0
    assert search.dense["my_read"].score > 0.8
    assert search.dense["mme"].values is None  # pairs of questions are no mean over documents
    # No picture of the search is asked about again.
    for name in ("my_read", "my_choice", "mme"):
        assert not set(search.dense[name].images) & set(confirm.dense[name].images)
    small, arrays = assets.split()
    bench = Bench(Assets.join(small, arrays), Resources())
    plan = allocate(
        assets.spec,
        scores(assets.importance),
        Allocation(axis="width"),
        round(0.7 * assets.spec.total_params),
    )
    run = bench.start(Candidate(plan, RecoveryRecipe(sample_passes=16, batch_size=8)))
    part = run.rung(0.5, fraction=1 / 3)
    whole = run.rung(1.0)
    for result in (part, whole):
        assert result.scores is not None
        assert set(result.per_task) == {"my_read", "my_choice", "mme", "digits_read"}
        assert result.retention is not None
        assert result.flops > 0
    assert whole.scores is not None
    assert whole.scores.questions == search.dense.questions
    assert run.rung(1.0, split="confirm").retention is not None
