"""The best point of finished searches under constraints, in words and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.amounts import seconds_text
from autoprune.deploy.pick.candidates import (
    Candidate,
    read_floors,
    read_pool,
    with_costs,
    with_floors,
)
from autoprune.deploy.pick.choose import Choice, Entry, Lost, choose
from autoprune.deploy.pick.limits import Limit, read_limits
from autoprune.deploy.pick.target import check_cost_model, target_of
from autoprune.errors import AutoPruneError

if TYPE_CHECKING:
    from autoprune.cost.deployment import Deployment
    from autoprune.models.loading import Inspected
    from autoprune.search.compare import Finished

_ADJECTIVES = {"latency": "faster", "memory": "smaller in memory", "bytes": "smaller"}


@dataclass(frozen=True)
class Picked:
    """What was chosen, of what, and why.

    Attributes:
        choice: the winner and why the others lost.
        candidates: all points.
        limits: constraints, the searches' own floors and the device's memory among them.
        cost: figure that decides ties.
        objective: ``params`` or ``bytes``: what a size is here.
        device: that costs are said for; None: none was named.
        prompt: that memory and latency are said for; None: neither was asked for.
    """

    choice: Choice
    candidates: tuple[Candidate, ...]
    limits: tuple[Limit, ...]
    cost: str
    objective: str
    device: str | None
    prompt: Deployment | None

    def of(self, name: str) -> Candidate:
        """Return a point by its name."""
        return next(c for c in self.candidates if c.name == name)

    @property
    def export(self) -> str:
        """The command that writes the winner; of what no weights were kept, it trains it again."""
        assert self.choice.winner is not None
        best = self.of(self.choice.winner.name)
        store = best.search.store
        ref = store.typed.replace(store.name, best.name, 1)
        kept = (store.directory / "kept" / f"{best.point.trial:04d}" / "weights.npz").is_file()
        return f"autoprune export {ref}{'' if kept else ' --rebuild'} -o smaller-model"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``pick --json`` prints."""
        choice = self.choice
        assert choice.winner is not None
        return {
            "winner": self._plain(choice.winner),
            "ties": list(choice.ties),
            "runner_up": None
            if choice.runner_up is None
            else {
                **self._plain(choice.runner_up),
                "difference": _interval(choice.gap),
                "ties": list(choice.runner_ties),
            },
            "lost": [
                {
                    **self._plain(lost.entry),
                    "why": lost.why,
                    "missed": [
                        {
                            "constraint": limit.said,
                            "value": lost.entry.figures[limit.figure],
                            "bound": limit.bound,
                            "by_share": by,
                        }
                        for limit, by in lost.missed
                    ],
                    "by": lost.by or None,
                    "difference": _interval(lost.difference),
                    "dominated": lost.dominated,
                    "reason": reason(self, lost),
                }
                for lost in choice.lost
            ],
            "constraints": [limit.said for limit in self.limits],
            "ties_go_to": f"lowest {self.cost}",
            "device": self.device,
            "prompt": None if self.prompt is None else self.prompt.said,
            "export": self.export,
        }

    def _plain(self, entry: Entry) -> dict[str, Any]:
        found = self.of(entry.name)
        latency = found.latency
        return {
            "name": found.name,
            "search": found.search.store.name,
            "trial": found.point.trial,
            "baseline": found.point.baseline,
            "retention": found.point.retention.model_dump(),
            "params": found.point.params,
            "fraction": found.point.fraction,
            "bytes": found.point.bytes,
            "precision": found.point.precision,
            "memory": None if found.memory is None else found.memory.total,
            "latency": None if latency is None else latency.seconds,
            "latency_kind": None if latency is None else latency.kind,
            "latency_interval": None
            if latency is None or latency.low is None
            else {"low": latency.low, "high": latency.high},
            "floors": dict(found.floors),
        }


def pick_named(
    names: Sequence[str],
    *,
    home: Path,
    device: str | None = None,
    min_retention: float | None = None,
    max_latency: str | None = None,
    max_params: str | None = None,
    max_memory: str | None = None,
    context: int | None = None,
    cost_model: str | None = None,
    floors: Sequence[str] = (),
) -> Picked:
    """Choose the best point of finished searches, named as a user names them.

    Args:
        names: of searches of one dense model.
        home: of the searches, and of measured devices.
        device: see :func:`pick`.
        min_retention, max_latency, max_params, max_memory: constraints, as ``read_limits`` reads
            them.
        context, cost_model: see :func:`pick`.
        floors: see :func:`pick`.

    Raises:
        AutoPruneError: something typed cannot be had, before anything is read; or as :func:`pick`.
        StoppedError: a search has no confirmed front yet.
    """
    from autoprune.search.compare import read_finished
    from autoprune.search.records.store import find_search

    limits = read_limits(
        min_retention=min_retention,
        max_latency=max_latency,
        max_params=max_params,
        max_memory=max_memory,
    )
    if not names:
        raise AutoPruneError("no search is named: name at least one")
    for name in names:
        if list(names).count(name) > 1:
            raise AutoPruneError(f"search {name!r} is named twice: name each once")
    stores = [find_search(home, name) for name in names]
    summaries = [store.confirmed() for store in stores]
    return pick(
        [read_finished(s, summary) for s, summary in zip(stores, summaries, strict=True)],
        limits,
        floors=floors,
        device=device,
        context=context,
        cost_model=cost_model,
        home=home,
    )


def pick(
    searches: Sequence[Finished],
    limits: Sequence[Limit] = (),
    *,
    floors: Sequence[str] = (),
    device: str | None = None,
    context: int | None = None,
    cost_model: str | None = None,
    home: Path | None = None,
) -> Picked:
    """Choose the best point of finished searches under constraints.

    Of the points that fit and that no other beats beyond the interval of their paired difference,
    the cheapest: by latency where that is bounded, else by memory where that is, else by size.

    Args:
        searches: of one dense model, confirmed on the same questions.
        limits: from ``limits.read_limits``.
        floors: ``NAME=SHARE`` of tasks or capabilities; the searches' own hold as well.
        device: of the catalogue, or ``here``, where latency is measured; the point has to fit
            its memory. None: where latency is bounded, the first search's own.
        context: text tokens of the prompt that memory and latency are said for; None: the first
            search's own.
        cost_model: that says latency on a device; None: the first search's own.
        home: that measured devices are kept in.

    Raises:
        AutoPruneError: searches do not belong together, something typed cannot be had, or no
            point fits (says which constraint cannot be met, by how much, and the nearest point).
    """
    pool = read_pool(searches)
    pool, from_floors = with_floors(pool, read_floors(floors, searches))
    every = [*limits, *from_floors]
    wanted = {limit.figure for limit in limits}
    # What the search was planned for holds, unless something else is typed.
    settings = searches[0].store.settings()
    if "latency" in wanted and device is None:
        device = settings.device
    if "latency" in wanted and device is None:
        raise AutoPruneError(
            "--max-latency holds for a device: name one by --device ('autoprune devices' lists "
            "them, --device here measures this machine)"
        )
    check_cost_model(cost_model, device)
    prompt = None
    if device is not None or "memory" in wanted or context is not None:
        from autoprune.cost.deployment import deployment_of

        dense = _dense(searches)
        tokens = settings.context if context is None else context
        images, image_tokens = settings.images_per_prompt, settings.image_tokens
        prompt = deployment_of(dense.config, tokens, images, image_tokens)
        planned = searches[0].summary.running
        if planned and planned.images and planned.image_tokens != prompt.image_tokens:
            # Counted for the search's own images, or by an earlier version.
            prompt = deployment_of(dense.config, tokens, images, planned.image_tokens)
            prompt = replace(prompt, image=planned.image)
        model = settings.cost_model if cost_model is None else cost_model
        target = None if device is None else target_of(device, dense, prompt, home, model)
        pool = with_costs(pool, dense, prompt, target)
        if target is not None:
            every.append(Limit(f"memory of {target.name}", "", "memory", float(target.memory)))
    cost = next((f for f in ("latency", "memory") if f in wanted), pool.objective)
    choice = choose([c.entry for c in pool.candidates], every, cost, pool.differ())
    found = Picked(choice, pool.candidates, tuple(every), cost, pool.objective, device, prompt)
    if choice.winner is None:
        raise AutoPruneError(nothing_fits(found))
    return found


def _dense(searches: Sequence[Finished]) -> Inspected:
    """Return the dense model, of which shapes are needed; its weights are not."""
    from autoprune.pipeline.prepare import inspect

    first = searches[0]
    model = first.store.settings().model
    found = inspect(model)
    if found.identity != first.identity:
        raise AutoPruneError(
            f"model {model!r} is not the one that search {first.store.name!r} cut: its weights or "
            "its configuration have changed since; put that one back, or leave --device, "
            "--max-memory and --max-latency out"
        )
    return found


def nothing_fits(found: Picked) -> str:
    """Say in a line which constraint cannot be met, by how much, and which point is nearest."""
    nearest = found.choice.nearest
    assert nearest is not None
    parts = []
    for limit in found.limits:
        known = [c for c in found.candidates if limit.figure in c.entry.figures]
        if not known:
            continue
        best = min(known, key=lambda c: limit.missed(c.entry.figures))
        if by := limit.missed(best.entry.figures):
            end = "least" if limit.most else "most"
            parts.append(
                f"{limit.said} cannot be met: the {end} is {figure(found, limit, best)} "
                f"({best.name}), {_by(by)} {'above' if limit.most else 'below'} it"
            )
    if not parts:
        parts.append("each constraint can be met, but no point meets all of them")
    missed = next(lost.missed for lost in found.choice.lost if lost.entry is nearest)
    near = " and ".join(
        f"{limit.said} by {_by(by)} ({figure(found, limit, found.of(nearest.name))})"
        for limit, by in missed
    )
    return (
        f"no confirmed point fits: {'; '.join(parts)}; the nearest is {nearest.name}, which misses "
        f"{near}"
    )


def figure(found: Picked, limit: Limit, candidate: Candidate) -> str:
    """Return the figure of a point that a constraint is about, in words."""
    value = candidate.entry.figures[limit.figure]
    return _WORDS.get(limit.figure, _share)(value, candidate)


def _by(share: float) -> str:
    return f"{share:.1%}" if share < 10 else f"{share:,.0f} times"


def cost_words(cost: str, candidate: Candidate) -> str:
    """Return what a point costs, in the figure that decides ties."""
    return _WORDS[cost](candidate.entry.figures[cost], candidate)


def _share(value: float, candidate: Candidate) -> str:
    return f"{value:.3f}"


def _params(value: float, candidate: Candidate) -> str:
    from autoprune.cost.parameters import format_params

    return f"{format_params(int(value))} parameters"


def _bytes(value: float, candidate: Candidate) -> str:
    from autoprune.cost.bytes import format_bytes

    return format_bytes(int(value))


def _latency(value: float, candidate: Candidate) -> str:
    kind = "" if candidate.latency is None else f" {candidate.latency.kind}"
    return f"{seconds_text(value)} a token{kind}"


_WORDS = {
    "retention": _share,
    "params": _params,
    "bytes": _bytes,
    "memory": _bytes,
    "latency": _latency,
}


def reason(found: Picked, lost: Lost) -> str:
    """Return why a point was not chosen, in words."""
    own = found.of(lost.entry.name)
    if lost.why == "limit":
        return "; ".join(
            f"misses {limit.said} by {_by(by)} ({figure(found, limit, own)})"
            for limit, by in lost.missed
        )
    rival = found.of(lost.by)
    between = difference_text(lost.difference)
    if lost.why == "beaten":
        if lost.dominated:
            return f"dominated by {rival.name}, which costs no more and keeps more: {between}"
        return f"keeps less than {rival.name}: {between}"
    adjective = _ADJECTIVES.get(found.cost, "smaller")
    theirs, mine = cost_words(found.cost, rival), cost_words(found.cost, own)
    if theirs == mine:  # they differ by less than is shown
        theirs, mine = (f"{one.entry.figures[found.cost]:,.9g}" for one in (rival, own))
    return f"ties with {rival.name} ({between}), which is {adjective}: {theirs} against {mine}"


def difference_text(difference: Any) -> str:
    """Return a difference in retention with its interval."""
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def _interval(difference: Any) -> dict[str, float] | None:
    if difference is None:
        return None
    return {"mean": difference.mean, "low": difference.low, "high": difference.high}
