"""Warm starts: what earlier searches on the same model found, told to a new one.

Their trials of full fidelity are told to the sampler; the best of their front run first. Sizes
are remapped, since the knob ``size`` means another size where the budget is another. What was
taken over is written down in the new search's directory, so that it goes on the same after a
kill, whatever becomes of the earlier ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from autoprune.cost.budget import RUNNING
from autoprune.errors import AutoPruneError
from autoprune.search.fronts.front import nondominated
from autoprune.search.knobs.grid import idle
from autoprune.search.knobs.space import Space
from autoprune.search.knobs.table import KNOBS, Value
from autoprune.search.options import flag
from autoprune.search.records.store import SearchStore, find_search, search_dir
from autoprune.search.running import ROOFLINE
from autoprune.search.settings import SearchSettings, make_settings
from autoprune.search.starts.baselines import room
from autoprune.search.study import Told, contains, read_study
from autoprune.search.work import Baseline
from autoprune.tracking.records.costs import share_in, split_objective
from autoprune.zoo import splits_of

WARM = "warm"
"""Origin of trials that come from an earlier search's front."""

_SAME = (
    "dense",
    "tasks",
    "max_recovery_samples",
    "objective",
    "deployable",
    "multiple",
    "search_samples",
    "floors",
    "data",
    "device",
)
"""Facts that two searches must share for the results of one to say something in the other: the
same knobs mean another model where shapes are held otherwise, and retention on other images is
another figure."""

_SAID = {
    "dense": "--model",
    "tasks": "--tasks",
    "objective": "--objective",
    "floors": "--floor",
}


@dataclass(frozen=True)
class Warm:
    """What a search takes over.

    Attributes:
        told: results for the sampler.
        first: configurations to run first, smallest first.
        notes: a line an earlier search: what is used of it, and what is not, and why.
    """

    told: tuple[Told, ...] = ()
    first: tuple[Baseline, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Earlier:
    """Results of one earlier search, each with all its knobs."""

    facts: Mapping[str, Any]
    results: Sequence[Told]
    left: Mapping[str, int]


def check_warm(settings: SearchSettings) -> None:
    """Check what can be known of warm starts before anything is prepared.

    Raises:
        AutoPruneError: an earlier search is not there, or its settings differ in what matters.
    """
    from autoprune.search.exams import task_facts, tasks_of

    for name in settings.warm_start:
        facts = _earlier(name, settings).facts
        now = {
            "tasks": task_facts(tasks_of(settings)),
            "max_recovery_samples": settings.max_recovery_samples,
            "objective": settings.counted,
            **of_settings(settings),
        }
        if settings.multiple is None:  # what suits the model is not known yet
            del now["multiple"]
        _check_same(name, facts, {**{k: facts.get(k) for k in _SAME}, **now})


def of_settings(settings: SearchSettings) -> dict[str, Any]:
    """Return the facts that a search's settings tell; ``multiple`` is None where none was asked.

    Searches of earlier versions did not write these down beside their results.
    """
    # All of the split, whose size a user's data says; that it is the same data is a fact too.
    usual = splits_of(None).size("search") if not settings.data else None
    return {
        "deployable": settings.deployable,
        "multiple": settings.multiple,
        "floors": sorted(settings.floors),
        "search_samples": settings.search_samples or usual,
        "data": settings.data_identity or None,
        "device": _running(settings),
    }


def _running(settings: SearchSettings) -> list[str] | None:
    """Return what memory and latency are said for and bounded by; None where nothing asks.

    Under other bounds the same knobs mean another plan.
    """
    held = sorted(text for text in settings.budgets if text.endswith(RUNNING))
    if not held and settings.device is None and settings.objective != "memory":
        return None
    prompt = (settings.context, settings.images_per_prompt, settings.image_tokens)
    other = [settings.cost_model] * (settings.cost_model != ROOFLINE)
    return [settings.device or "no device", *held, *(str(part) for part in prompt), *other]


def warm_up(
    settings: SearchSettings, space: Space, store: SearchStore, facts: Mapping[str, Any]
) -> Warm:
    """Return what the search takes over: as it was written down, or gathered now.

    Raises:
        AutoPruneError: an earlier search is not there, or is of another model, other tasks,
            another recovery cap, objective, deployable form or images; says what differs.
    """
    if not settings.warm_start:
        return Warm()
    path = store.directory / "warm.json"
    if not path.is_file():
        store.write("warm.json", json.dumps(_gathered(settings, space, facts), indent=1))
    kept = json.loads(path.read_text())
    return Warm(
        told=tuple(Told(**row) for row in kept["told"]),
        first=tuple(Baseline(WARM, knobs) for knobs in kept["first"]),
        notes=tuple(kept["notes"]),
    )


def _gathered(settings: SearchSettings, space: Space, facts: Mapping[str, Any]) -> dict[str, Any]:
    told: list[Told] = []
    notes = []
    now = {**of_settings(settings), **facts}
    # What an earlier version did not know, it left at its default.
    defaults = {name: knob.default for name, knob in KNOBS.items() if knob.default is not None}
    for name in dict.fromkeys(settings.warm_start):
        earlier = _earlier(name, settings)
        before = dict(earlier.facts)
        if before.get("multiple") is None and settings.multiple is None:
            before["multiple"] = now["multiple"]  # what suits the model, in both
        _check_same(name, before, now)
        left = Counter(earlier.left)
        used = 0
        for result in earlier.results:
            knobs = _moved({**defaults, **result.knobs}, earlier.facts, facts)
            problem = (
                "lie at sizes beyond this search's" if knobs is None else _outside(space, knobs)
            )
            if knobs is None or problem:
                left[problem] += 1
                continue
            used += 1
            told.append(replace(result, knobs=knobs))
        said = "; ".join(f"{count} {why}" for why, count in left.items() if count)
        notes.append(
            f"warm start from {name}: {used} of {used + left.total()} results are used"
            + (f" ({said})" if said else "")
        )
    front = [told[i] for i in nondominated([_point(t) for t in told])]
    most = room(settings.trials)
    if len(front) > most:
        picks = sorted({round(i * (len(front) - 1) / max(most - 1, 1)) for i in range(most)})
        front = [front[i] for i in picks] if most > 1 else [front[-1]]
    return {
        "told": [asdict(row) for row in told],
        "first": [dict(row.knobs) for row in front],
        "notes": notes,
    }


def _point(told: Told) -> tuple[float, ...]:
    middle = () if told.latency is None else (told.latency,)
    return (told.size, *middle, told.retention)


def _earlier(name: str, settings: SearchSettings) -> _Earlier:
    """Read an earlier search from the home, or from the study storage."""
    if name == settings.name:
        raise AutoPruneError(f"--warm-start {name} is this search itself: name an earlier one")
    if settings.storage is not None and not SearchStore(search_dir(settings.home, name)).exists():
        found = read_study(settings.storage, name)
        if found is not None:
            return _Earlier({**of_settings(make_settings({})), **found[0]}, found[1], {})
    store = find_search(settings.home, name)
    facts = store.facts()
    if facts is None or "objective" not in facts:
        raise AutoPruneError(
            f"--warm-start {name}: it does not say what model it searched, being of an earlier "
            "version or never begun: leave it out"
        )
    objective = str(facts["objective"])
    results, left = [], Counter[str]()
    for number, record in sorted(store.records().items()):
        size = share_in(record, objective)
        if record.state != "complete" or record.retention is None or size is None:
            left["did not end with a result"] += 1
        elif record.layout is not None:
            left["came of refinement, beyond what knobs say"] += 1
        else:
            results.append(
                Told(
                    f"{name}:{number}",
                    record.given,
                    size,
                    record.retention,
                    record.violation,
                    record.latency_fraction if split_objective(objective)[1] else None,
                )
            )
    return _Earlier({**of_settings(store.settings()), **facts}, results, left)


def _check_same(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key in _SAME:
        if before.get(key) != now.get(key):
            raise AutoPruneError(
                f"--warm-start {name} has another {_SAID.get(key, flag(key))} "
                f"({_shown(before.get(key))}, not {_shown(now.get(key))}): its results do not "
                "hold here, leave it out"
            )


def _shown(value: Any) -> str:
    if value is None:
        return "what suits the model"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _moved(
    knobs: Mapping[str, Value], before: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, Value] | None:
    """Return knobs of the same size in another search's range; None where it lies outside."""
    if "backbone_removed" in knobs:
        return dict(knobs)
    unit = (
        str(knobs["precision"])
        if split_objective(str(now["objective"]))[0] != "params"
        else "params"
    )
    if unit not in before["sizes"] or unit not in now["sizes"]:
        return None
    (low, high), (least, most) = before["sizes"][unit], now["sizes"][unit]
    target = low + float(knobs["size"]) * (high - low)
    place = (target - least) / (most - least) if most > least else 0.0
    if not -1e-9 <= place <= 1 + 1e-9:
        return None
    return {**knobs, "size": min(1.0, max(0.0, place))}


def _outside(space: Space, knobs: Mapping[str, Value]) -> str:
    """Say why a configuration is no point of a space; nothing if it is one."""
    sampled, fixed = space.distributions(), space.complete({})
    everything = {**fixed, **knobs}
    without = idle(everything)
    for name, value in everything.items():
        if name in sampled:
            if not contains(sampled[name], value):
                return "have knobs outside this search's space"
        elif name not in without and fixed.get(name) != value:
            return "have knobs that this search's space does not sample"
    if set(sampled) - set(everything):
        return "lack knobs of this search's space"
    return ""
