"""What a card says of a point, and that it has the form that the hub reads."""

from __future__ import annotations

from typing import Any

from autoprune.deploy.readme import kept_lines
from autoprune.tracking.records.point import FrontPoint, Retention


def scores(**point: Any) -> dict[str, Any]:
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
    return {"confirmed": found.model_dump(mode="json"), "retention": 0.91, "seed": 5}


def test_a_tie_stands_on_the_card() -> None:
    said = " ".join(kept_lines(scores(tied_with=(2,), tied_smaller=(2,), behind=True)))
    assert "0.900 [0.880, 0.920]" in said
    assert "it is tied with 2, which is smaller" in said
    assert "tied" not in " ".join(kept_lines(scores()))
