"""``autoprune search --dry-run``: what a search would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from autoprune.cli.output import console, duration, json_stdout, print_json, size_on_disk

if TYPE_CHECKING:
    from autoprune.search.candidates.sizes import Sizes
    from autoprune.search.knobs.space import Space
    from autoprune.search.records.stages import Forecast
    from autoprune.search.settings import SearchSettings


def print_plan(settings: SearchSettings, as_json: bool) -> None:
    """Print the resolved plan of work, having checked it; nothing is started or written.

    Raises:
        AutoPruneError: whatever a search would refuse.
    """
    with json_stdout(as_json):
        plan = plan_of(settings)
    if as_json:
        print_json(plan)
        return
    from rich.table import Table

    out = console()
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _rows(plan).items():
        table.add_row(name, str(value))
    out.print(table)


def plan_of(settings: SearchSettings) -> dict[str, Any]:
    """Return the plan of work as plain values.

    Of a model that lies there as nothing but a configuration, sizes are known; ``unknown`` then
    says what is not, and why.
    """
    from autoprune.cost.bytes import dense_bytes, stored_bytes
    from autoprune.pipeline.prepare import inspect, working_precision
    from autoprune.pruning.allocation import reachable
    from autoprune.pruning.knobs import Allocation
    from autoprune.search.candidates.sizes import channel_multiple, read_sizes
    from autoprune.search.exams import tasks_of
    from autoprune.search.knobs.grid import cells
    from autoprune.search.knobs.space import load_space, with_precisions
    from autoprune.search.preflight import preflight
    from autoprune.search.problem import narrow_for, preparation
    from autoprune.search.records.store import SearchStore, search_dir
    from autoprune.search.sampling.samplers import SAMPLERS
    from autoprune.search.trial.forecast import PLANNED_TOKENS, forecast, memory

    store = SearchStore(search_dir(settings.home, settings.name))
    if store.exists():
        store.check_same(settings)
    else:
        preflight(settings, outline=True)
    dense = inspect(settings.model, outline=True)
    precision = working_precision(dense)
    sizes = read_sizes(settings, dense.spec, precision, dense.config)
    spec = dense.spec
    space = store.space() if store.exists() else load_space(settings.space)
    narrowed = narrow_for(settings, with_precisions(space, settings.precisions), dense)
    space = narrowed.space
    if SAMPLERS[settings.sampler].walks:
        trials = min(settings.trials, len(cells(space)))
        settings = settings.model_copy(update={"trials": trials})
    wanted = preparation(settings)
    unread = [name for name in dense.lacks if name != "weights"]
    expected = None
    if not unread:
        expected = forecast(settings, space, wanted, dense, sizes)
    tokens = PLANNED_TOKENS if expected is None else expected.tokens
    held = memory(dense, sizes.budget.params, tokens)
    whole = Allocation(axis="hybrid", stock=settings.deployable == "stock")
    least, most = reachable(spec, whole, channel_multiple(settings, spec))
    return {
        "search": settings.name,
        "state": store.state(),
        "directory": str(store.directory),
        "dense": {
            "model": dense.ref,
            "params": spec.total_params,
            "bytes": dense.bytes,
            "dtype": dense.dtype,
            "precision": precision,
            "lacks": list(dense.lacks),
        },
        "reachable": {"least": least, "most": most},
        "budget": sizes.budget.model_dump(mode="json"),
        "smallest": sizes.smallest,
        "objective": settings.objective,
        "bytes": {
            "precision": precision,
            "dense": dense_bytes(spec, precision),
            "by_precision": {
                name: {"smallest": low, "largest": high, "dense": stored_bytes(spec, None, name)}
                for name, (low, high) in sizes.spans.items()
            },
        },
        "timed": settings.timed,
        "running": _running(sizes, precision),
        "tasks": [task.name for task in tasks_of(settings)],
        "confirmation": _confirmation(settings, space),
        "forecast": None if expected is None else forecast_values(expected),
        "memory": asdict(held),
        "space": {"sampled": list(space.distributions()), "notes": list(narrowed.notes)},
        "unknown": _unknown(dense.lacks),
        "settings": settings.model_dump(mode="json"),
    }


def _running(sizes: Sizes, precision: str) -> dict[str, Any] | None:
    """Return what the dense model takes while it answers, for what, and what is allowed."""
    from autoprune.search.candidates.costs import running_of, said_of

    said = said_of(sizes.bounds)
    if said is None or sizes.bounds is None:
        return None
    return {
        **said.model_dump(mode="json"),
        "said": said.said,
        "dense": running_of(sizes.bounds, None, precision),
        "implied": [bound.text for bound in sizes.bounds.limits if bound.implied],
        "most": {bound.text: bound.most for bound in sizes.bounds.limits},
    }


def _answering(running: Mapping[str, Any]) -> str:
    """Return in words what the dense model takes while it answers, and what bounds that."""
    from autoprune.amounts import seconds_text
    from autoprune.cost.devices import HERE

    dense = running["dense"]
    said = f"{size_on_disk(dense['memory'])} of memory"
    if "latency" in dense:
        said += f" and {seconds_text(dense['latency'])} a token"
    said = f"the dense model takes {said}, at {running['said']}"
    if running["bounds"]:
        kept = (
            f"{text} ({size_on_disk(running['most'][text])})"
            if text in running["implied"]
            else text
            for text in running["bounds"]
        )
        said += f"; every candidate keeps to {' and '.join(kept)}"
    if running["device"] == HERE:
        said += "; the confirmed front is timed at the end"
    return said


def _confirmation(settings: SearchSettings, space: Space) -> dict[str, int]:
    """Return what the confirmation runs again at most: points and baselines, each so many times."""
    from autoprune.search.starts.baselines import known
    from autoprune.tracking.records.trial import START

    beside = [b for b in known(space, lambda size: 0.5, settings) if not b.name.startswith(START)]
    parts = {
        "points": min(settings.confirm_points, settings.trials),
        "baselines": len(beside),
        "seeds": settings.confirm_seeds,
    }
    return {**parts, "runs": (parts["points"] + parts["baselines"]) * parts["seeds"]}


def _confirming(parts: Mapping[str, int]) -> str:
    """Return what the confirmation runs in words, and their number."""
    points, beside, seeds = (
        f"{parts[name]} {name if parts[name] != 1 else name[:-1]}"
        for name in ("points", "baselines", "seeds")
    )
    what = f"{points} and {beside}" if parts["baselines"] else points
    return f"up to {what}, {seeds} each: {parts['runs']} runs at most"


def forecast_line(expected: Mapping[str, Any]) -> str:
    """Return a forecast, as ``plan_of`` has it, in a line."""
    ready = " (most lies there from an earlier search)" if expected["ready"] else ""
    stops = ""
    if expected["stopped"]:
        # By the shares that rungs begin with: they stop fewer where they are seen to rank badly.
        stops = f", about {expected['stopped']:.0f} of them stopped early"
    return (
        f"about {duration(expected['seconds'])}: {duration(expected['prepare'])} to "
        f"prepare{ready}, {duration(expected['trials'])} of trials{stops}, "
        f"{duration(expected['confirm'])} to confirm in {expected['runs']} runs at most"
    )


def forecast_values(expected: Forecast) -> dict[str, Any]:
    """Return a forecast as plain values."""
    return {**asdict(expected), "seconds": expected.seconds}


def _unknown(lacks: Sequence[str]) -> list[str]:
    """Say what a plan leaves open for want of a model's files."""
    said = []
    if unread := [name for name in lacks if name != "weights"]:
        said.append(
            f"time and disk: the length of a sample is unknown without the {' and '.join(unread)}"
        )
    if "weights" in lacks:
        said.append("whether a search can run: there are no weights, which it needs")
    return said


def _sizes(plan: dict[str, Any]) -> str:
    """Return what is sampled, in the objective's unit."""
    from autoprune.tracking.terminal import params_text

    budget, dense = plan["budget"], plan["dense"]
    if not plan["bytes"]["by_precision"]:
        return (
            f"{params_text(plan['smallest'])} to {params_text(budget['params'])} parameters, "
            f"{plan['smallest'] / dense['params']:.1%} to {budget['fraction']:.1%} of the whole "
            "model"
        )
    whole = plan["bytes"]["dense"]
    said = (
        f"{size_on_disk(row['smallest'])} to {size_on_disk(row['largest'])} in {name} "
        f"({row['smallest'] / whole:.1%} to {row['largest'] / whole:.1%})"
        for name, row in plan["bytes"]["by_precision"].items()
    )
    return f"{'; '.join(said)}; of {size_on_disk(whole)} in {plan['bytes']['precision']}"


def _stored(plan: dict[str, Any]) -> str:
    """Return what a model takes as it is stored, and where it is worked with otherwise, how."""
    dense = plan["dense"]
    said = f"{size_on_disk(dense['bytes'])} in {dense['dtype']}"
    if dense["precision"] == dense["dtype"]:
        return said
    worked = size_on_disk(plan["bytes"]["dense"])
    return f"{said}, worked with in {dense['precision']} ({worked})"


def _refining(settings: Mapping[str, Any]) -> str:
    """Return what the last trials do, where it is not what the sampler says."""
    from autoprune.search.sampling.refine import refined_trials

    count = refined_trials(settings["trials"], settings["refine"])
    return f"the last {count} refining the front, " if count else ""


def _rows(plan: dict[str, Any]) -> dict[str, str]:
    from autoprune.tracking.terminal import params_text

    settings, dense = plan["settings"], plan["dense"]
    expected, reach = plan["forecast"], plan["reachable"]
    states = {
        "new": "new",
        "interrupted": "goes on where it was stopped",
        "running": "is running in another process",
        "finished": "has finished: its front would be shown at once",
    }
    rows = {
        "search": f"{plan['search']} ({states[plan['state']]})",
        "written to": plan["directory"],
        "model": f"{dense['model']}, {params_text(dense['params'])} parameters, " + _stored(plan),
        "budgets": f"{params_text(reach['least'])} to {params_text(reach['most'])} parameters can "
        f"be reached, {reach['least'] / dense['params']:.1%} to 100% of the whole model",
        "sizes": _sizes(plan),
        **({"answering": _answering(plan["running"])} if plan["running"] else {}),
        "tasks": ", ".join(plan["tasks"]),
        **({"floors": ", ".join(settings["floors"])} if settings["floors"] else {}),
        "trials": f"{settings['trials']} from space {settings['space']} by sampler "
        f"{settings['sampler']}, {_refining(settings)}{settings['workers']} at once",
        "confirmation": _confirming(plan["confirmation"]),
    }
    rows["knobs"] = ", ".join(plan["space"]["sampled"])
    for note in plan["space"]["notes"]:
        what, _, which = note.partition(": ")
        rows[what] = "; ".join(filter(None, (rows.get(what), which)))
    held = plan["memory"]
    rows["memory"] = (
        f"about {size_on_disk(held['importance'])} to measure importance, "
        f"{size_on_disk(held['surgery'])} for the largest model, at {held['tokens']:,} tokens a "
        "sample"
    )
    if expected is not None:
        rows["forecast"] = forecast_line(expected)
        rows["disk"] = f"about {size_on_disk(expected['disk'])} for caches and kept weights"
    if plan["unknown"]:
        rows["not forecast"] = "; ".join(plan["unknown"])
    return rows
