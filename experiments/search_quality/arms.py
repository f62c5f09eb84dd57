"""The arms: the search, the search without each of its parts, and what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoprune.search.knobs.grid import OF_RECOVERY
from autoprune.search.knobs.space import Space, load_space, parse_space

_RULE = """
description: the cut of a rule, half by layers and half by equal widths; its recovery searched
rungs: [0, 1]
knobs:
  size: {low: 0, high: 1, step: 0.125}
  axis: hybrid
  depth_share: 0.5
  temperature: 0
  attention_share: 0.5
  protect_first: 0
  protect_last: 0
  criterion: weight_taylor
"""


def _depth_then_width() -> Space:
    """Return the rule's cut with every recovery knob of the default space."""
    rule, default = parse_space(_RULE, "depth-then-width"), load_space("hybrid")
    recovery = {name: default.knobs[name] for name in OF_RECOVERY if name in default.knobs}
    return rule.model_copy(update={"knobs": {**rule.knobs, **recovery}})


def _grid() -> Space:
    """Return the study's grid at the sizes that are compared."""
    paper = load_space("paper")
    from autoprune.search.knobs.space import Choice

    sizes = Choice(choices=(0.30, 0.45, 0.60))
    return paper.model_copy(update={"knobs": {**paper.knobs, "backbone_removed": sizes}})


_BARE: Mapping[str, Any] = {"early_stopping": False, "warm_baselines": False, "refine": 0.0}


@dataclass(frozen=True)
class Arm:
    """One way to spend the same work.

    Attributes:
        text: what it is, for tables.
        settings: of the search, where they differ from its defaults.
        space: makes its knob space.
    """

    text: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    space: Any = lambda: load_space("hybrid")


ARMS: dict[str, Arm] = {
    "full": Arm("AutoPrune"),
    "random": Arm("random search", {**_BARE, "sampler": "random"}),
    "grid": Arm(
        "the study's grid, in random order", {**_BARE, "sampler": "grid", "space": "paper"}, _grid
    ),
    "rule": Arm("depth then width, recovery by TPE", _BARE, _depth_then_width),
    "no-fidelity": Arm("without multi-fidelity", {"early_stopping": False}),
    "no-baselines": Arm("without warm baselines", {"warm_baselines": False}),
    "no-refinement": Arm("without refinement", {"refine": 0.0}),
    "gp": Arm("gp for tpe", {"sampler": "gp"}),
    "random-halving": Arm(
        "random search with multi-fidelity",
        {**_BARE, "sampler": "random", "early_stopping": True},
    ),
}
