"""The end of a search as people read it: the front, how it compares, where to look, what next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from autoprune.search.records.store import SearchStore
    from autoprune.tracking.records.point import FrontPoint
    from autoprune.tracking.records.summary import SearchSummary


WIDE = 110
"""Columns from which the table has room for everything."""


def print_result(
    summary: SearchSummary,
    store: SearchStore,
    console: Console,
    *,
    everything: bool = False,
) -> None:
    """Print a confirmed front: table, plot, baselines beside it, links and the next commands."""
    from autoprune.tracking.terminal import front_plot, front_table

    wide = console.width >= WIDE
    records = list(store.records().values())  # may be refused, and then nothing is printed
    console.print(front_table(summary, dominated=everything, wide=wide))
    if summary.front:
        unicode = (console.encoding or "").lower().startswith("utf")
        console.print(front_plot(summary, records, unicode=unicode))
    if (table := capability_table(summary)) is not None:
        console.print(table)
    for line in (*floor_lines(summary), *verdicts(summary), *comparison(summary)):
        console.print(Text(line), soft_wrap=True)
    if summary.ended:
        console.print(Text(f"No more trials, since {summary.ended}."), soft_wrap=True)
    if line := stage_line(summary):
        console.print(Text(line), soft_wrap=True)
    for line in rung_lines(summary):
        console.print(Text(line), soft_wrap=True)
    print_links(store, console, summary.front)
    print_next(summary, store, console)


def capability_table(summary: SearchSummary) -> Table | None:
    """Return what each point keeps of each capability; None where there are fewer than two."""
    from rich import box
    from rich.table import Table

    points = summary.front or summary.below
    names = list(dict.fromkeys(name for point in points for name in point.capabilities))
    if len(names) < 2:
        return None
    table = Table(
        box=box.SIMPLE_HEAD,
        title="kept of each capability, guessing counted as nothing",
        title_justify="left",
        title_style="",
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table.add_column("trial", justify="right", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    for point in points:
        kept = (point.capabilities.get(name) for name in names)
        table.add_row(str(point.trial), *("" if k is None else f"{k:.3f}" for k in kept))
    return table


def floor_lines(summary: SearchSummary) -> list[str]:
    """Return a line on floors: what they are, and which point comes nearest if none meets them."""
    from autoprune.tracking.records.costs import share_in

    if not summary.floors:
        return []
    floors = ", ".join(f"{name} {least:g}" for name, least in summary.floors.items())
    near = summary.nearest
    if near is None:
        return [f"Every point of the front keeps the floors ({floors})."]
    share = share_in(near, summary.objective) or 0.0
    return [
        f"No point keeps the floors ({floors}); trial {near.trial} ({share:.1%}) comes nearest: "
        f"{near.shortfall}. Take lower floors, a larger budget or more --trials."
    ]


def verdicts(summary: SearchSummary) -> list[str]:
    """Return the lines on the whole front: ties, hypervolume, shrinkage, level of intervals."""
    from autoprune.tracking.records.costs import share_in
    from autoprune.tracking.report import figures

    lines = []
    for point in summary.front:
        if point.tied_smaller:
            share = share_in(point, summary.objective) or 0.0
            behind = ", and has the lower mean" if point.behind else ""
            smaller = point.model_copy(update={"tied_with": point.tied_smaller}).tie
            lines.append(f"  trial {point.trial} ({share:.1%}) is {smaller}{behind}")
    if lines:
        lines.insert(0, "The data do not tell these apart:")
    return [*lines, *figures(summary)]


def comparison(summary: SearchSummary) -> list[str]:
    """Return a line for each recommended configuration: is the front better at its size?

    A configuration is met by the best point that is no larger. They tie where their paired
    interval of the difference holds zero (``tied_with``); two intervals that do not touch decide
    where no pairing is recorded.
    """
    from autoprune.tracking.records.costs import share_in

    lines = []

    def share(point: FrontPoint) -> float:
        return share_in(point, summary.objective) or 0.0

    for base in summary.baselines:
        rival = _rival(summary, base)
        if rival is None:
            lines.append(f"  {base.baseline} ({share(base):.1%}): no point is as small")
            continue
        verdict = _verdict(rival, base)
        gain = rival.retention.mean - base.retention.mean
        lines.append(
            f"  {base.baseline} ({share(base):.1%}) keeps {base.retention.mean:.3f}; "
            f"trial {rival.trial} ({share(rival):.1%}) is {verdict}: {gain:+.3f}"
        )
    if lines:
        lines.insert(0, "Against the recommended configurations, at their size or below:")
    return lines


def stage_line(summary: SearchSummary) -> str:
    """Return what the search took, against what was forecast before its launch."""
    from autoprune.cli.output import duration

    if not summary.stages:
        return ""
    parts = ", ".join(f"{duration(stage.seconds)} {stage.stage}" for stage in summary.stages)
    line = f"It took {duration(summary.taken or 0.0)}: {parts}."
    forecast = [stage.forecast for stage in summary.stages if stage.forecast is not None]
    if len(forecast) < len(summary.stages):
        return line
    said = ", ".join(f"{duration(seconds)}" for seconds in forecast)
    return f"{line} Forecast: {duration(sum(forecast))} ({said})."


def rung_lines(summary: SearchSummary) -> list[str]:
    """Return a line for each rung below the last: did it rank trials as their end did?

    Its share was set beforehand; from when the correlation can be said, it follows from that.
    """
    if not summary.rungs:
        return []
    lines = [
        "Rank correlation with the end, on trials that nothing could stop (baselines, and an "
        "exempt share), within bins of size:"
    ]
    for rung in summary.rungs:
        at = "before recovery (KL)" if rung.share == 0 else f"at {rung.share:.0%} of the recovery"
        if rung.correlation is None or rung.low is None or rung.high is None:
            trials = "1 trial is" if rung.trials == 1 else f"{rung.trials} trials are"
            said = f"{trials} too few to say"
            how = "as it began"
        else:
            bins = "1 bin" if rung.bins == 1 else f"{rung.bins} bins"
            said = (
                f"{rung.correlation:+.2f} [{rung.low:+.2f}, {rung.high:+.2f}] over "
                f"{rung.trials} trials in {bins}"
            )
            how = "by that"
        stops = f"{how}, it stops the last {rung.stops:.0%}" if rung.stops else "it stops none"
        lines.append(f"  {at}: {said}; {stops}")
    return lines


def _rival(summary: SearchSummary, base: FrontPoint) -> FrontPoint | None:
    """Return the point that retains the most and is no larger than ``base``."""
    size = summary.size(base)
    fitting = [p for p in summary.front if summary.size(p) <= size and p.trial != base.trial]
    return max(fitting, key=lambda p: p.retention.mean, default=None)


def _verdict(point: FrontPoint, base: FrontPoint) -> str:
    if base.trial in point.tied_with or point.trial in base.tied_with:
        return "tied"
    return "better" if point.retention.mean > base.retention.mean else "worse"


def print_links(
    store: SearchStore, console: Console, points: tuple[FrontPoint, ...] = (), local: str = ""
) -> None:
    """Print where the MLflow UI shows this search; nothing where it was never logged."""
    from autoprune.tracking.links import LOCAL_UI, search_links
    from autoprune.tracking.location import is_server
    from autoprune.tracking.tracker import read_place

    place = read_place(store.directory)
    if place is None:
        return
    start = "" if local or is_server(place.uri) else f", which 'autoprune ui {store.typed}' starts"
    console.print(Text(f"In the MLflow UI{start}:"))
    for name, address in search_links(place, local=local or LOCAL_UI, points=points).items():
        console.print(Text(f"  {name:8} {address}"), soft_wrap=True)


def print_next(summary: SearchSummary, store: SearchStore, console: Console) -> None:
    """Print the commands that most people type next."""
    console.print(Text("Next:"))
    console.print(Text(f"  autoprune ui {store.typed}"), soft_wrap=True)
    console.print(Text(f"  autoprune report {store.typed} --open"), soft_wrap=True)
    if summary.front:
        best = summary.stairs[-1]
        point = store.typed.replace(store.name, f"{store.name}:{best.trial}", 1)
        console.print(Text(f"  autoprune apply {point} -o smaller-model"), soft_wrap=True)
