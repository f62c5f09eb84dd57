"""A worker's tools on the embedded model with a handful of images: trials in a second."""

from __future__ import annotations

from pathlib import Path

from autoprune.evaluation.tasks import resolve_tasks
from autoprune.pipeline.prepare import Preparation, prepare
from autoprune.pipeline.run import Bench
from autoprune.pruning.scores import Importance
from autoprune.resources import Resources
from autoprune.search.candidates.decode import DecodeContext
from autoprune.search.knobs.space import load_space
from autoprune.search.trial.bench import TrialBench, TrialWork

WANTED = Preparation(
    model="embedded",
    tasks=resolve_tasks(["digits_read"]),
    splits=(("search", 8), ("confirm", 8)),
    train_images=32,
    calibration_images=12,
)


def open_bench(cache: Path) -> TrialBench:
    """Prepare into ``cache``, and return tools whose sizes are 1.0 to 1.2 million parameters."""
    assets = prepare(WANTED, cache, Resources())
    assert isinstance(assets.importance, Importance)
    context = DecodeContext(
        spec=assets.spec,
        importance=assets.importance,
        min_params=1_000_000,
        max_params=1_200_000,
        train_samples=len(assets.train),
        max_recovery_samples=32,
        precision=assets.precision,
    )
    return TrialBench(Bench(assets, Resources()), TrialWork(b"", context, load_space("hybrid")))
