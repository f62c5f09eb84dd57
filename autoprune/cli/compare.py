"""``autoprune compare``: finished searches beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.amounts import seconds_text
from autoprune.cli.options import Home, Json, example, home_dir
from autoprune.cli.result import WIDE
from autoprune.errors import AutoPruneError

if TYPE_CHECKING:
    from rich.table import Table

    from autoprune.tracking.comparison import Comparison, Range

EXAMPLE = example(
    "autoprune compare demo other",
    "autoprune compare demo other --plot fronts.html",
    "autoprune compare demo other third --json",
)
ENDINGS = (".png", ".html")


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Names of two or more searches; differences are to the first.", metavar="A B..."
        ),
    ],
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Where to draw the fronts, .png or .html; by default HOME/compare/A-B.png.",
            metavar="FILE",
        ),
    ] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Compare the confirmed fronts of finished searches on one plot and in one table.

    Shows each one's hypervolume with its interval, and what each holds at shared sizes.

    The searches must be of one dense model, with the same tasks, confirmed on the same images.
    """
    place = home_dir(home)
    _check_names(names)
    path = plot or place / "compare" / f"{_file_name(names)}.png"
    if path.suffix.lower() not in ENDINGS:
        raise AutoPruneError(f"--plot {path} ends neither in .png nor in .html: name it so")
    from autoprune.search.records.store import find_search

    stores = [find_search(place, name) for name in names]
    summaries = [store.confirmed() for store in stores]
    from autoprune.cli.output import console, print_json
    from autoprune.search.compare import compare_searches, read_finished
    from autoprune.tracking.overlay import overlay

    found = compare_searches(
        [read_finished(store, summary) for store, summary in zip(stores, summaries, strict=True)]
    )
    try:
        overlay(found, path)
    except OSError as error:
        raise AutoPruneError(
            f"cannot write the plot to {path} ({error.strerror}): name another file by --plot"
        ) from None
    if as_json:
        print_json({**found.model_dump(mode="json"), "plot": str(path)})
        return
    out = console()
    out.print(searches_table(found, wide=out.width >= WIDE))
    if found.sizes:
        out.print(sizes_table(found))
    for line in remarks(found):
        out.print(line, soft_wrap=True)
    out.print(f"Plot: {path}", soft_wrap=True)


def _check_names(names: list[str]) -> None:
    if len(names) < 2:
        raise AutoPruneError(
            f"one search alone ({names[0]}) cannot be compared: name two or more, or see "
            f"'autoprune front {names[0]}'"
        )
    for name in names:
        if names.count(name) > 1:
            raise AutoPruneError(f"search {name!r} is named twice: name each once")


def _file_name(names: list[str]) -> str:
    """Return the names joined, or cut where a file system would refuse them."""
    from autoprune.identity import content_hash

    whole = "-".join(names)
    return whole if len(whole) <= 120 else f"{whole[:100]}-{content_hash(names)}"


def searches_table(found: Comparison, *, wide: bool = False) -> Table:
    """Return a row a search: its hypervolume, by how much it differs, and what it took.

    Args:
        found: the searches.
        wide: whether there is room for the floating-point operations of its trials.

    Its time is that of all stages, preparation and confirmation included.
    """
    from autoprune.cli.output import duration

    first = found.searches[0].name
    table = _table(f"hypervolume: 1 is the ability of the {_dense(found)} at no size")
    table.add_column("search", overflow="fold")
    table.add_column("hypervolume 95 %", no_wrap=True)
    table.add_column(f"minus {first}", overflow="fold")
    costs = ("trials", "time", "FLOPs") if wide else ("trials", "time")
    for name in costs:
        table.add_column(name, justify="right", no_wrap=True)
    for one in found.searches:
        table.add_row(
            one.name,
            _figure(one.hypervolume),
            _gain(one.gain),
            str(one.trials),
            "" if one.seconds is None else duration(one.seconds),
            *([] if not wide else [""] if one.flops is None else [f"{one.flops:.1e}"]),
        )
    return table


def sizes_table(found: Comparison) -> Table:
    """Return a row a search at each shared size: its best point that is no larger."""
    first = found.searches[0].name
    table = _table(f"at a share of the {_dense(found)}: the best confirmed point no larger")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("search", overflow="fold")
    for name in ("trial", "model"):
        table.add_column(name, justify="right", no_wrap=True)
    kind = found.sizes[0].held[0].latency_kind if found.sizes else ""
    if kind:
        table.add_column(kind, justify="right", no_wrap=True)
    table.add_column("retention 95 %", no_wrap=True)
    table.add_column(f"minus {first}", overflow="fold")
    for row in found.sizes:
        for place, (one, held) in enumerate(zip(found.searches, row.held, strict=True)):
            r = held.retention
            table.add_row(
                "" if place else f"{row.share:.3g}",
                one.name,
                str(held.trial),
                f"{held.share:.1%}",
                *([] if not kind else ["" if not held.latency else seconds_text(held.latency)]),
                f"{r.mean:.3f} {r.low:.3f}–{r.high:.3f}",
                _gain(held.gain),
            )
        table.add_section()
    return table


def remarks(found: Comparison) -> list[str]:
    """Return the lines under the tables: baselines, how the searches differ, level, notes."""
    from autoprune.tracking.records.costs import share_in

    lines = []
    if not found.sizes:
        lines.append("No size is covered by all: the smallest point of one is above another's end.")
    if found.baselines:
        lines.append("Baselines, run alike:")
    for point in found.baselines:
        r = point.retention
        lines.append(
            f"  {point.baseline} ({share_in(point, found.objective) or 0:.1%}) keeps "
            f"{r.mean:.3f} {r.low:.3f}–{r.high:.3f}"
        )
    lines += [f"They differ in {name}: {', '.join(v)}" for name, v in found.differs.items()]
    lines += [f"Note: {note}" for note in found.notes]
    lines.append(
        "Intervals are at 95 % each, over images and seeds; differences are paired over images. "
        "Tied: zero lies inside."
    )
    lines.append(
        "How far seeds scatter is learned from all these searches, so a point's interval may be "
        "a little other than in 'autoprune front', which knows one."
    )
    return lines


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(
        box=box.SIMPLE_HEAD,
        title=Text(title, style="not italic"),
        title_justify="left",
        padding=0,
        show_edge=False,
    )


def _dense(found: Comparison) -> str:
    from autoprune.tracking.records.costs import size_in
    from autoprune.tracking.terminal import size_text

    size = size_in(found.dense, found.objective)
    return f"dense model ({size_text(size, found.objective)})"


def _figure(value: Range) -> str:
    return f"{value.mean:.3f} {value.low:.3f}–{value.high:.3f}"


def _gain(value: Range | None) -> str:
    if value is None:
        return ""
    if value.low == value.high == 0.0:
        return "the same runs"
    return f"{value.mean:+.3f} {value.low:+.3f} to {value.high:+.3f} {value.verdict}"
