"""How many trials this machine can run at once."""

from __future__ import annotations

from autoprune.doctor.checks import workers_within
from autoprune.doctor.machine import Machine
from autoprune.search.settings import SearchSettings


def suited_workers(settings: SearchSettings, machine: Machine, gpus: float = 0.0) -> int:
    """Return the workers that a machine's cores, memory and GPUs are for, at least 1.

    Args:
        settings: of the search.
        machine: that it is to run on.
        gpus: that are to be used; each takes one worker.

    Raises:
        AutoPruneError: for a model that cannot be searched.
    """
    from autoprune.pipeline.prepare import inspect, working_precision
    from autoprune.search.candidates.sizes import read_sizes
    from autoprune.search.trial.forecast import PLANNED_TOKENS, memory

    found = inspect(settings.model)
    sizes = read_sizes(settings, found.spec, working_precision(found), found.config)
    held = memory(found, sizes.budget.params, PLANNED_TOKENS).surgery
    most = min(
        int(machine.cores // settings.cpus_per_trial), workers_within(machine.available, held)
    )
    if gpus:
        most = min(most, max(1, int(gpus)))
    return max(1, most)
