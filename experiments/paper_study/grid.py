"""The study's grid (arXiv 2604.24380) as cells: axis x size x recovery x data x variant x seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.search.knobs.table import Value
from experiments.cells import Cell

HERE = Path(__file__).parent
ROWS, DENSE = HERE / "rows.jsonl", HERE / "dense.json"

SIZES = (0.15, 0.30, 0.45, 0.60)
"""Shares of the backbone that are removed."""

CUTS: dict[str, dict[str, Value]] = {
    # Layers by block influence; the rest of the cut is trimmed uniformly, so that rows of one
    # size have equal parameters.
    "depth": {"axis": "hybrid", "depth_share": 1.0, "window": False},
    "width": {"axis": "width", "window": True},
    "uniform": {"axis": "width", "window": False},
}
"""The study's two axes, and uniform widths in all layers beside them."""

STUDY_AXES = ("depth", "width")

BEYOND_WINDOW = 0.60
"""Here the layers of the window are too few to give the cut: ``width`` is lifted out of it by
``decode``, and is the same plan as ``uniform``."""

NONE = "none"
RECOVERIES: dict[str, tuple[str, str]] = {
    NONE: ("none", "none"),
    "projector SFT": ("projector", "sft"),
    "SFT": ("lora", "sft"),
    "SFT + L2": ("lora", "sft+hidden"),
    "reverse KL": ("lora", "reverse_kl"),
    "SFT + reverse KL": ("lora", "sft+reverse_kl"),
    "KL": ("lora", "kl"),
    "L2": ("lora", "hidden"),
    "SFT + L2 + reverse KL": ("lora", "sft+reverse_kl+hidden"),
}
"""Name -> scope and losses, those that most findings rest on first."""

RECOMMENDED = ("projector SFT", "SFT", "SFT + L2")
"""What the study recommends, and the plain training that it is compared with."""

CLOSE = ("SFT", "KL", "L2", "SFT + L2 + reverse KL")
"""Those nearest to SFT + L2 on 20 % of the data."""

DATA = (0.05, 0.2, 1.0)
SAMPLES = 2000
"""Recovery samples that are all of the data."""

VARIANTS = ("one pass", "equal updates")
EQUAL_PASSES = 800
"""Sample passes of every recovery where updates are equal; 16 samples make an update."""

SEEDS = (1000, 1001, 1002)
TUNING_SEED = 0
TUNED_ON = {"projector": "projector SFT", "lora": "SFT + L2"}
"""Scope -> the recovery that its learning rate is tuned on."""
TUNING_DATA = 0.2
SCALES = (0.5, 1.0, 2.0)
"""Learning rates that are tried first, times AutoPrune's default for size and scope."""

Rates = Mapping[tuple[str, float, str], float]
"""Axis, size and scope -> the rate that was best on the ``search`` split."""

# All that a plan or a recipe could depend on: a space that changes its defaults changes no row.
_FIXED: dict[str, Value] = {
    "contiguous": False,
    "depth_unit": "layer",
    "head_unit": "group",
    "profile_slope": 0.0,
    "profile_curve": 0.0,
    "decay": "cosine",
    "size": 1.0,
    "temperature": 0.0,
    "attention_share": 0.5,
    "protect_first": 0,
    "protect_last": 0,
    "criterion": "weight_taylor",
    "text_weight": 0.5,
    "distill_weight": 0.5,
    "lora_rank": 16,
}


def sizes_of(axis: str) -> tuple[float, ...]:
    """Return the sizes at which an axis has plans of its own."""
    return tuple(s for s in SIZES if (axis, s) != ("uniform", BEYOND_WINDOW))


def passes_of(data: float, variant: str) -> int:
    """Return the sample passes of a recovery."""
    return round(data * SAMPLES) if variant == VARIANTS[0] else EQUAL_PASSES


def knobs_of(what: Mapping[str, Any]) -> dict[str, Value]:
    """Return the knob vector of a cell; ``decode`` needs the cell's size beside it."""
    scope, losses = RECOVERIES[what["recovery"]]
    knobs = {**_FIXED, **CUTS[what["axis"]], "recovery": losses}
    if what["recovery"] == NONE:
        return knobs
    return {
        **knobs,
        "scope": scope,
        "data_fraction": what["data"],
        "passes": what["passes"] / SAMPLES,
        "learning_rate_scale": what["scale"],
    }


def tuning_cells(axes: Sequence[str], scales: Mapping[tuple[str, float, str], Any]) -> list[Cell]:
    """Return the cells that learning rates are chosen by, of the rates in ``scales``."""
    return [
        _cell("search", axis, size, TUNED_ON[scope], TUNING_DATA, VARIANTS[0], TUNING_SEED, scale)
        for axis in axes
        for size in sizes_of(axis)
        for scope in TUNED_ON
        for scale in scales[axis, size, scope]
    ]


def report_cells(axes: Sequence[str], rates: Rates, last: int = 3) -> list[Cell]:
    """Return the cells of the study's grid: of each rank a whole seed first, then the next.

    Args:
        axes: of which.
        rates: what tuning chose.
        last: ranks beyond it are left out, see :func:`rank`.
    """
    places = {seed: place for place, seed in enumerate(SEEDS)}

    def turn(cell: Cell) -> tuple[int, int]:
        return rank(cell.what), places[cell.what["seed"]]

    cells = [c for c in _report_cells(axes, rates) if rank(c.what) <= last]
    return sorted(cells, key=turn)


def rank(what: Mapping[str, Any]) -> int:
    """Return how early a cell is run, so that a run cut short still carries the findings.

    0: what the findings rest on: every recovery on 20 % of the data, the recommended ones on
    5 %, SFT + L2 on all of it and on both ends of it with equal updates, and at the smallest cut
    the projector and SFT on all of it. 1: beyond the smallest cut what comes near SFT + L2 on all
    of the data, which the best points of the grid come from. 2: the rest of the one pass,
    and SFT + L2 with equal updates. 3: the others with equal updates. Uniform widths: recommended
    recoveries on 20 %, then the rest.
    """
    recovery, data, once = what["recovery"], what["data"], what["variant"] == VARIANTS[0]
    advised = recovery in RECOMMENDED
    if what["axis"] == "uniform":
        return 0 if recovery == NONE else 1 if advised and data == 0.2 and once else 3
    if recovery == NONE:
        return 0
    if not once:
        return 3 if recovery != "SFT + L2" else 2 if data == 0.2 else 0
    if data == 0.2 or recovery == "SFT + L2" or (advised and data < 1):
        return 0
    if data < 1:
        return 2
    if what["size"] == SIZES[0]:
        return 0 if advised else 2
    return 1 if recovery in CLOSE else 2


def _report_cells(axes: Sequence[str], rates: Rates) -> Iterator[Cell]:
    # Nothing is drawn and nothing trained: one cell is all there is, so every axis has its own.
    for axis in CUTS:
        for size in sizes_of(axis):
            yield _cell("report", axis, size, NONE, 0.0, VARIANTS[0], SEEDS[0], 1.0)
    for seed in SEEDS:
        for variant in VARIANTS:
            for recovery, (scope, _) in list(RECOVERIES.items())[1:]:
                for data in DATA:
                    for size in SIZES:
                        for axis in axes:
                            if size not in sizes_of(axis):
                                continue
                            scale = rates[axis, size, scope]
                            yield _cell("report", axis, size, recovery, data, variant, seed, scale)


def _cell(
    split: str,
    axis: str,
    size: float,
    recovery: str,
    data: float,
    variant: str,
    seed: int,
    scale: float,
) -> Cell:
    what = {
        "split": split,
        "axis": axis,
        "size": size,
        "recovery": recovery,
        "data": data,
        "variant": variant,
        "seed": seed,
        "scale": scale,
        "passes": 0 if recovery == NONE else passes_of(data, variant),
    }
    key = f"{split}|{axis}|{size:g}|{recovery}|{data:g}|{variant}|{seed}"
    # The report is read at one rate; a second row of a cell at another would be a second look.
    return Cell(key if split == "report" else f"{key}|{scale:g}", what)
