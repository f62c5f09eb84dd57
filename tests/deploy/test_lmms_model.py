"""lmms-eval asks AutoPrune's model, and finds what ``autoprune evaluate`` finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from support.yaml_tasks import write_tasks

from autoprune.deploy.scoring import score_model
from autoprune.errors import AutoPruneError
from autoprune.models import checkpoint
from autoprune.models.arrays import state_arrays
from autoprune.models.checkpoint import save_checkpoint
from autoprune.models.loading import load_model
from autoprune.pruning.plan import dense_plan
from autoprune.pruning.surgery import prune
from autoprune.zoo import EMBEDDED, embedded_path

NAMED = {EMBEDDED: embedded_path}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tasks")
    write_tasks(place, 24)
    return place


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The embedded model with a tenth of the channels gone: of one layer, or alike of all."""
    dense = load_model(EMBEDDED, torch.float32, "cpu", named=NAMED)
    whole = dense_plan(dense.spec)
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        # The fresh process of the test itself is proof enough.
        patch.setattr(checkpoint, "prove_reload", lambda directory, reference: None)
        for name, layers in (("any", 1), ("stock", len(whole.layers))):
            plan = replace(
                whole,
                layers=tuple(
                    replace(layer, channels=layer.channels[: int(0.9 * len(layer.channels))])
                    if place < layers
                    else layer
                    for place, layer in enumerate(whole.layers)
                ),
            )
            model = prune(dense.config, state_arrays(dense.model), plan, spec=dense.spec)
            out = tmp_path_factory.mktemp("cut") / name
            save_checkpoint(model, dense.processor, out)
            made[name] = out
    return made


def lmms_eval(folder: Path, out: Path, model: str) -> dict[str, Any]:
    """Run the command in a process of its own, and return its results."""
    command = Path(sys.executable).with_name("lmms-eval")
    done = subprocess.run(
        [
            *([str(command)] if command.is_file() else [sys.executable, "-m", "lmms_eval"]),
            *("--model", "autoprune", "--model_args", f"pretrained={model}"),
            *("--tasks", "my_read,my_choice", "--include_path", str(folder)),
            *("--batch_size", "16", "--output_path", str(out)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        cwd=folder,
        timeout=300,
    )
    found = sorted(out.rglob("*results.json"))
    assert found, done.stdout[-2000:] + done.stderr[-4000:]
    results: dict[str, Any] = json.loads(found[-1].read_text())["results"]
    return results


def files(folder: Path) -> list[str]:
    return [str(folder / f"{name}.yaml") for name in ("my_read", "my_choice")]


def test_it_is_registered() -> None:
    (point,) = entry_points(group="lmms_eval.models", name="autoprune")
    manifest = point.load()()
    assert manifest.model_id == "autoprune"
    from lmms_eval import models

    assert models.get_model("autoprune").__name__ == "AutoPruneModel"


@pytest.mark.slow
def test_the_command_scores_as_evaluate_does(
    folder: Path, cut: dict[str, Path], tmp_path: Path
) -> None:
    """A checkpoint with its loading code, in a fresh process."""
    assert (cut["any"] / checkpoint.CODE_FILE).is_file()
    results = lmms_eval(folder, tmp_path, str(cut["any"]))
    ours = score_model(str(cut["any"]), tasks=files(folder))
    assert ours.split == "all"
    assert results["my_read"]["exact_match,none"] == pytest.approx(ours.scores["my_read"])
    assert results["my_choice"]["acc,none"] == pytest.approx(ours.scores["my_choice"])
    assert 0.5 < ours.scores["my_read"] <= 1.0


@pytest.mark.parametrize("kind", ["stock", "dense"])
def test_stock_and_dense_models_answer_too(kind: str, folder: Path, cut: dict[str, Path]) -> None:
    from autoprune.deploy.lmms_model import AutoPruneModel
    from autoprune.evaluation import harness
    from autoprune.evaluation.external import tried
    from autoprune.evaluation.pools import pool_of
    from autoprune.evaluation.tasks import resolve_tasks

    ref = EMBEDDED if kind == "dense" else str(cut["stock"])
    if kind == "stock":
        assert not (cut["stock"] / checkpoint.CODE_FILE).exists()
    model = AutoPruneModel(pretrained=ref, batch_size=16, device="cpu")
    specs = [tried(spec) for spec in resolve_tasks(files(folder))]
    tasks = [pool_of(spec).task for spec in specs]
    model.task_dict = {spec.name: t.dataset for spec, t in zip(specs, tasks, strict=True)}
    results = harness.run(
        tasks,
        model.generate_until,
        lambda requests: [one.text for one in model.loglikelihood(requests)],
    )["results"]
    ours = score_model(ref, tasks=files(folder))
    assert results["my_read"]["exact_match,none"] == pytest.approx(ours.scores["my_read"])
    assert results["my_choice"]["acc,none"] == pytest.approx(ours.scores["my_choice"])


def test_what_it_refuses(tmp_path: Path) -> None:
    from autoprune.deploy.lmms_model import AutoPruneModel

    with pytest.raises(AutoPruneError, match="nothing-here"):
        AutoPruneModel(pretrained=str(tmp_path / "nothing-here"))
    with pytest.raises(AutoPruneError, match="dtype 'float7'"):
        AutoPruneModel(pretrained=EMBEDDED, dtype="float7")
