"""Every family, in both classes, saved and reloaded by a process that never imports AutoPrune."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.families import CASES
from support.oracle import plan_of
from support.pruned import MIXED, uniform

from autoprune.models import checkpoint
from autoprune.models.arrays import state_arrays
from autoprune.models.checkpoint import CODE_FILE
from autoprune.models.loading import load_model
from autoprune.models.proof import ReloadProof, prove_reloads, reference_of
from autoprune.pruning.surgery import prune

pytestmark = pytest.mark.slow
KEYS = [(name, kind) for name in CASES for kind in ("stock", "any")]
Proved = dict[tuple[str, str], tuple[Path, ReloadProof]]


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Proved:
    """All of them, written as ``save_checkpoint`` does, and proved in one fresh process."""
    saved = []
    for name, case in CASES.items():
        dense = load_model(case.saved(tmp_path_factory.mktemp(f"{name}-dense")))
        for kept, kind in ((uniform(dense.config), "stock"), (MIXED, "any")):
            model = prune(dense.config, state_arrays(dense.model), plan_of(dense.model, kept))
            folder = tmp_path_factory.mktemp(f"{name}-{kind}")
            checkpoint._check_record(model)
            checkpoint._write(model, dense.processor, folder, {})
            saved.append((folder, reference_of(model, dense.processor, case.inputs())))
    proofs = prove_reloads(saved)
    return {
        key: (folder, proof) for key, (folder, _), proof in zip(KEYS, saved, proofs, strict=True)
    }


@pytest.mark.parametrize(("name", "kind"), KEYS, ids=[f"{n}-{k}" for n, k in KEYS])
def test_reloads_in_a_fresh_process(name: str, kind: str, proved: Proved) -> None:
    folder, proof = proved[name, kind]
    assert proof.max_abs_diff <= 1e-5 * proof.scale
    assert proof.missing == proof.unexpected == ()
    assert proof.model_class.startswith("AutoPrune") is (kind == "any")
    assert (folder / CODE_FILE).exists() is (kind == "any")


@pytest.mark.parametrize(("name", "kind"), KEYS, ids=[f"{n}-{k}" for n, k in KEYS])
def test_autoprune_loads_what_it_saved(name: str, kind: str, proved: Proved) -> None:
    folder, _ = proved[name, kind]
    loaded = load_model(folder)
    with torch.no_grad():
        out = loaded.model(**CASES[name].inputs()).logits
    assert torch.isfinite(out[CASES[name].inputs()["attention_mask"].bool()]).all()
    assert loaded.spec.total_params == sum(p.numel() for p in loaded.model.parameters())
