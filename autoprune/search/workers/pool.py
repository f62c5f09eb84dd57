"""Workers with an open bench, for work that is not a trial: the confirmation."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.search.work import Bench
from autoprune.search.workers.assets import Parcel, open_bench
from autoprune.search.workers.failures import reason_of, release_memory


@dataclass(frozen=True)
class Failure:
    """Stands where a result would, had the call not failed; says why."""

    reason: str


class _BenchWorker:
    """An actor that calls functions on its process's bench."""

    def __init__(self, parcel: Parcel) -> None:
        self._parcel = parcel

    def open(self) -> None:
        """Import and join what calls will need, ahead of them; a failure shows there."""
        with contextlib.suppress(Exception):
            open_bench(self._parcel)

    def call(self, function: Callable[[Bench, Any], Any], payload: Any) -> Any:
        try:
            return function(open_bench(self._parcel), payload)
        except Exception as error:
            return Failure(reason_of(error))
        finally:
            release_memory()


class WorkerPool:
    """Runs a function over payloads on ``workers`` processes, each with an open bench.

    Workers start at the first call or by :meth:`open`, and end with :meth:`close`.

    Args:
        parcel: what they open.
        workers: number of processes.
        overlap: let them start while trials still hold the machine's CPUs.
    """

    def __init__(self, parcel: Parcel, workers: int, overlap: bool = False) -> None:
        self._parcel = parcel
        self._workers = workers
        self._overlap = overlap
        self._actors: list[Any] = []

    def open(self) -> None:
        """Start the workers, and go on at once."""
        while len(self._actors) < self._workers:
            actor = self._new()
            actor.open.remote()
            self._actors.append(actor)

    def run(
        self,
        function: Callable[[Bench, Any], Any],
        payloads: Sequence[Any],
        on_done: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        """Return ``function(bench, payload)`` for each payload, in order.

        Args:
            function: of a module, so that it travels by name.
            payloads: small and picklable.
            on_done: called on the driver with (index, result) as each comes in.

        A call that raises gives a :class:`Failure`; one whose worker is killed is tried once
        more on a new worker.
        """
        import ray
        from ray.exceptions import RayError

        results: list[Any] = [None] * len(payloads)
        waiting = [(index, 0) for index in range(len(payloads))]
        while len(self._actors) < min(self._workers, len(payloads)):
            self._actors.append(self._new())
        idle = list(self._actors)
        flying: dict[Any, tuple[int, int, Any]] = {}
        while waiting or flying:
            while idle and waiting:
                actor = idle.pop(0)
                index, tries = waiting.pop(0)
                reference = actor.call.remote(function, payloads[index])
                flying[reference] = (index, tries, actor)
            done, _ = ray.wait(list(flying), num_returns=1, timeout=1.0)
            for reference in done:
                index, tries, actor = flying.pop(reference)
                try:
                    result = ray.get(reference)
                except RayError as error:
                    self._actors.remove(actor)
                    actor = self._new()
                    self._actors.append(actor)
                    if tries == 0:
                        waiting.append((index, 1))
                        idle.append(actor)
                        continue
                    result = Failure(f"its worker was lost: {reason_of(error)}")
                idle.append(actor)
                results[index] = result
                if on_done is not None:
                    on_done(index, result)
        return results

    def _new(self) -> Any:
        import ray

        resources = self._parcel.resources
        # Workers that overlap with trials must not take the CPUs that a trial waits for.
        cpus = 0.0 if self._overlap else resources.cpus
        remote = ray.remote(_BenchWorker).options(num_cpus=cpus, num_gpus=resources.gpus)
        return remote.remote(self._parcel)

    def close(self) -> None:
        """End the workers."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        gc.collect()
