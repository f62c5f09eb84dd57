"""The library on the embedded model, from a cut to a checkpoint, and a search of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForImageTextToText

import autoprune
from autoprune.errors import AutoPruneError
from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.search.listener import SearchListener

QUICK: dict[str, Any] = {
    "search_samples": 32,
    "confirm_samples": 32,
    "max_recovery_samples": 64,
    "workers": 1,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def test_a_model_is_cut_recovered_scored_and_saved(home: Path, tmp_path: Path) -> None:
    knobs = {"axis": "width", "temperature": 0.5}
    pruned = autoprune.prune(budget="50%", home=home, knobs=knobs, **QUICK)
    assert pruned.fraction == pytest.approx(0.5, abs=0.01)
    assert pruned.candidate.plan.shapes[0] != pruned.candidate.plan.shapes[-1]
    assert sum(p.numel() for p in pruned.model.parameters()) == pruned.params
    before = {name: value.clone() for name, value in pruned.model.state_dict().items()}

    rungs: list[Any] = []
    recipe = RecoveryRecipe(sft=1.0, scope="full", sample_passes=64, learning_rate=1e-3)
    recovered = autoprune.recover(pruned, recipe=recipe, on_rung=rungs.append)
    assert recovered.recovered
    assert recovered.candidate.recipe == recipe
    assert rungs[0].retention is not None
    # What was cut is left as it is, and the recovery began from the same weights.
    assert all((before[n] == v).all() for n, v in pruned.model.state_dict().items())
    assert any((before[n] != v).any() for n, v in recovered.model.state_dict().items())

    scored = autoprune.evaluate(recovered, samples=16)
    assert scored.params == pruned.params
    assert scored.retention is not None
    assert scored.split == "confirm"
    saved = recovered.save(tmp_path / "smaller")
    loaded = AutoModelForImageTextToText.from_pretrained(saved.path, trust_remote_code=True)
    assert sum(p.numel() for p in loaded.parameters()) == pruned.params
    assert (saved.path / "plan.json").is_file()
    assert autoprune.evaluate(saved.path, samples=16).scores == scored.scores

    with pytest.raises(AutoPruneError, match="recovered already"):
        autoprune.recover(recovered)


def test_a_search_is_run_resumed_and_exported(home: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    class Watcher(SearchListener):
        def on_stage(self, text: str) -> None:
            seen.append(text)

    options = {**QUICK, "trials": 1, "confirm_seeds": 1, "baselines": False, "refine": 0.0}
    summary = autoprune.search(budget="50%", name="mine", home=home, listener=Watcher(), **options)
    assert "trials" in seen
    (point,) = summary.front
    again = autoprune.search(resume="mine", home=home)
    assert again == summary
    exported = autoprune.export(f"mine:{point.trial}", tmp_path / "out", home=home)
    assert (exported.path / "README.md").is_file()
    with pytest.raises(AutoPruneError, match="two searches"):
        autoprune.search(resume="mine", name="other", home=home)
    with pytest.raises(AutoPruneError, match="no search 'none'"):
        autoprune.export("none:1", tmp_path / "nothing", home=home)
    assert not (tmp_path / "nothing").exists()


def test_a_knob_that_is_not_there_is_named(home: Path) -> None:
    with pytest.raises(AutoPruneError, match="did you mean 'axis'"):
        autoprune.prune(knobs={"axes": "width"}, home=home)
