from __future__ import annotations

import pytest
import torch

from autoprune.errors import AutoPruneError
from autoprune.resources import SMALL, Resources, autocast_dtype, suited_threads


def test_cpu_by_default() -> None:
    assert Resources().device() == torch.device("cpu")
    assert Resources().threads() == 1


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1.0, 1), (2.9, 2), (4, 4)])
def test_threads_are_whole_cores(cpus: float, threads: int) -> None:
    assert Resources(cpus=cpus).threads() == threads


@pytest.mark.parametrize(
    "amounts", [{"cpus": 0}, {"cpus": float("nan")}, {"gpus": -1}, {"memory": 0}]
)
def test_impossible_amounts_are_refused(amounts: dict[str, float]) -> None:
    with pytest.raises(AutoPruneError):
        Resources(**amounts)  # type: ignore[arg-type]


def test_gpus_that_are_not_there_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(AutoPruneError, match="torch sees none"):
        Resources(gpus=1).device()


def test_claim_sets_the_threads() -> None:
    before = torch.get_num_threads()
    try:
        assert Resources(cpus=2).claim() == torch.device("cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_cpu_computes_in_float32() -> None:
    assert autocast_dtype("cpu") is None


def test_a_small_model_is_computed_on_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with suited_threads(SMALL - 1):
            assert torch.get_num_threads() == 1
        with suited_threads(SMALL):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
