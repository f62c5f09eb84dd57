"""What may be cut of which family, and which of it stock classes load: the table in the docs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autoprune.models.families import FAMILIES, WRAPPERS, Family, Heads

STOCK, OWN_CODE = "stock", "any"
_HEADS: dict[Heads, str] = {
    "any": STOCK,
    "divisor": f"{STOCK}, divisors of the hidden size",
    "rope": f"{STOCK}; {OWN_CODE} with long-context rotary factors",
    "norm": f"{STOCK}; {OWN_CODE} with normed queries and keys",
    "dense": OWN_CODE,
}


@dataclass(frozen=True)
class Axis:
    """One way of cutting.

    Attributes:
        title: what goes.
        loads: which class of checkpoint a family's model is in afterwards.
    """

    title: str
    loads: Callable[[Family], str]


AXES: tuple[Axis, ...] = (
    Axis(
        "whole layers",
        lambda family: (
            STOCK
            + (", except the first, behind which image features are added" * bool(family.anchors))
        ),
    ),
    Axis("one MLP width for all layers", lambda family: STOCK),
    Axis("one head count for all layers", lambda family: _HEADS[family.heads]),
    Axis("widths or heads layer by layer", lambda family: OWN_CODE),
    Axis("attention or MLP sublayers", lambda family: OWN_CODE),
)
"""Heads go by KV group, or query head by query head in every group; both count as heads here."""


def used_by(text: str) -> tuple[str, ...]:
    """Return the architectures that a text backbone is published in."""
    return tuple(row.model_type for row in WRAPPERS.values() if text in row.texts)


def rows() -> list[tuple[str, ...]]:
    """Return the table, a heading first: family, where it is met, and each axis."""
    heading = ("text backbone", "in", *(axis.title for axis in AXES))
    return [
        heading,
        *(
            (name, ", ".join(used_by(name)), *(axis.loads(family) for axis in AXES))
            for name, family in FAMILIES.items()
        ),
    ]


def by_axis() -> list[tuple[str, list[tuple[str, tuple[str, ...]]]]]:
    """Return for each axis how its checkpoints load, and for which families; most families first.

    Most axes are alike for all families, so that this is a short way to say the whole table.
    """
    found = []
    for axis in AXES:
        groups: dict[str, tuple[str, ...]] = {}
        for name, family in FAMILIES.items():
            loads = axis.loads(family)
            groups[loads] = (*groups.get(loads, ()), name)
        found.append((axis.title, sorted(groups.items(), key=lambda item: -len(item[1]))))
    return found


def markdown() -> str:
    """Return the page of the docs: what is supported, by family and axis."""
    heading, *body = rows()
    lines = [heading, tuple("---" for _ in heading), *body]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"""# Models and axes

<!-- Written by `autoprune models --markdown`. Edit autoprune/models/families.py instead. -->

What AutoPrune can cut, and how the checkpoint that comes out loads:

- **{STOCK}**: with plain `from_pretrained`, like any other model. `--deployable stock` keeps a
  search to this.
- **{OWN_CODE}**: with `trust_remote_code=True`. The checkpoint brings the few lines that give each
  layer its own shape; they need torch and transformers, not AutoPrune. A loader that does not run
  them fails on a shape: it never loads wrong weights.

{table}

Which heads and channels stay may differ from layer to layer in both classes; only how many decides.
MLP widths are kept in multiples (64 for real models, `--multiple` sets another). Heads go with
their keys and values as whole groups, or query head by query head inside every group.
"""
