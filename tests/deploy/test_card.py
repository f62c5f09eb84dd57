"""What a card says of a point."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from autoprune.deploy.card import Facts, _kept
from autoprune.tracking.records import FrontPoint, Retention


def facts(**point: Any) -> Facts:
    found = FrontPoint(
        trial=4,
        params=10,
        fraction=0.5,
        axis="width",
        recovery="sft",
        data_fraction=1.0,
        backbone_removed=0.5,
        retention=Retention(mean=0.9, low=0.88, high=0.92, seeds=3),
        **point,
    )
    unused: Any = None
    candidate: Any = SimpleNamespace(recipe=SimpleNamespace(seed=5))
    return Facts(unused, 4, candidate, unused, "confirm", {}, 0.91, 0.91, found, {})


def test_a_tie_stands_on_the_card() -> None:
    said = " ".join(_kept(facts(tied_with=(2,), tied_smaller=(2,), behind=True)))
    assert "0.900 [0.880, 0.920]" in said
    assert "it is tied with 2, which is smaller" in said
    assert "tied" not in " ".join(_kept(facts()))
