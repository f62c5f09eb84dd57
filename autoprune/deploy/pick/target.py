"""What a pick is for: a device's memory, and the time of a token on it, modelled or measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.errors import AutoPruneError, did_you_mean

if TYPE_CHECKING:
    from autoprune.cost.deployment import Deployment
    from autoprune.cost.latency import Latency
    from autoprune.models.loading import Inspected
    from autoprune.pruning.plan import PruningPlan


@dataclass(frozen=True)
class Target:
    """A device that a point is chosen for.

    Attributes:
        name: of the catalogue, of an entry, or ``here``.
        memory: bytes that a model can use there.
        latencies: times of a token of plans in their precisions; None for a model that does not
            fit a machine on which it would be measured.
    """

    name: str
    memory: int
    latencies: Callable[[Sequence[tuple[PruningPlan, str]]], list[Latency | None]]


def check_cost_model(typed: str | None, device: str | None) -> None:
    """Check that a cost model that was typed is there, and that something is modelled by it.

    Args:
        typed: name of the model; None: none was typed.
        device: whose time of a token is asked for; None: nobody's.

    Raises:
        AutoPruneError: it is unknown, or says nothing here.
    """
    if typed is None:
        return
    from autoprune.cost.devices import HERE
    from autoprune.cost.latency import COST_MODELS

    if typed not in COST_MODELS:
        raise AutoPruneError(f"unknown cost model {typed!r}{did_you_mean(typed, COST_MODELS)}")
    if device is None:
        raise AutoPruneError(
            f"--cost-model {typed} says the time of a token on a device: name one by --device"
        )
    if device == HERE:
        raise AutoPruneError(
            f"--cost-model {typed} models the time of a token, and --device {HERE} measures it: "
            "leave one of them out"
        )


def target_of(
    name: str, dense: Inspected, prompt: Deployment, home: Path | None, cost_model: str
) -> Target:
    """Return what a device's name stands for.

    Args:
        name: of the catalogue, of an entry, or ``here``.
        dense: the dense model, inspected.
        prompt: that memory and time are said for.
        home: that measured devices are kept in.
        cost_model: that says the time on any device but ``here``.

    Raises:
        AutoPruneError: there is none of that name.
    """
    from autoprune.cost.devices import HERE, find_device
    from autoprune.cost.latency import modelled_latency

    if name == HERE:
        return _this_machine(dense, prompt, home)
    device = find_device(name, home)

    def modelled(plans: Sequence[tuple[PruningPlan, str]]) -> list[Latency | None]:
        return [
            modelled_latency(dense.spec, plan, precision, prompt, device, cost_model)
            for plan, precision in plans
        ]

    return Target(device.name, device.memory, modelled)


def _this_machine(dense: Inspected, prompt: Deployment, home: Path | None) -> Target:
    """Return this machine, which times a model of each plan's shapes."""
    from autoprune.cost.devices import HERE, profiled
    from autoprune.cost.machine import this_machine
    from autoprune.cost.memory import memory_of
    from autoprune.cost.timing import measure_latencies
    from autoprune.resources import threads_for

    machine, entry = this_machine(), profiled(home).get(HERE)
    threads = threads_for(dense.spec.total_params, 0 if entry is None else entry.threads)

    def measured(plans: Sequence[tuple[PruningPlan, str]]) -> list[Latency | None]:
        fitting = {
            place: one
            for place, one in enumerate(plans)
            if memory_of(dense.spec, *one, prompt).total <= machine.memory
        }
        found = measure_latencies(
            dense.config, dense.spec, list(fitting.values()), prompt, threads=threads
        )
        known = dict(zip(fitting, found, strict=True))
        return [known.get(place) for place in range(len(plans))]

    return Target(HERE, machine.memory, measured)
