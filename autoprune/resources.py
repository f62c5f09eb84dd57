"""What a piece of work may use; the one place that decides on device, threads and precision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprune.errors import AutoPruneError

if TYPE_CHECKING:
    import torch


SMALL = 50_000_000
"""Parameters below which a model's matrices are too small to be shared out among threads."""


@dataclass(frozen=True)
class Resources:
    """The share of a machine that one trial owns.

    The scheduler places the process (it sets which GPUs are visible); this class says what
    the code inside may then do with it. Nothing else reads the environment.

    Args:
        cpus: CPU cores; a fraction shares a core.
        gpus: GPUs; 0 computes on the CPU, a fraction shares one GPU with other trials.
        memory: bytes of main memory, or None where nobody counts.

    Raises:
        AutoPruneError: for an amount that is not positive (``gpus`` may be 0) or not finite.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cpus) and self.cpus > 0):
            raise AutoPruneError(f"cpus {self.cpus} is not above 0: give a trial some CPU")
        if not (math.isfinite(self.gpus) and self.gpus >= 0):
            raise AutoPruneError(f"gpus {self.gpus} is below 0: give 0, a fraction or a count")
        if self.memory is not None and self.memory <= 0:
            raise AutoPruneError(f"memory {self.memory} is not above 0 bytes: leave it out")

    def device(self) -> torch.device:
        """Return the device to compute on: the first visible GPU where one is owned.

        Raises:
            AutoPruneError: where GPUs are owned and torch sees none.
        """
        import torch

        if self.gpus == 0:
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise AutoPruneError(
                f"gpus {self.gpus:g} are asked for and torch sees none: "
                "use 0, or install a torch that matches the driver"
            )
        return torch.device("cuda", 0)

    def threads(self) -> int:
        """Return the number of threads to compute with: the whole cores owned, at least 1."""
        return max(1, int(self.cpus))

    def claim(self) -> torch.device:
        """Set this process's threads and its share of GPU memory; return the device."""
        import torch

        torch.set_num_threads(self.threads())
        device = self.device()
        if device.type == "cuda" and self.gpus < 1:
            torch.cuda.set_per_process_memory_fraction(self.gpus, device)
        return device


def threads_for(params: int, known: int = 0) -> int:
    """Return the threads that suit a model: one for a small one, else as many as are ``known``.

    0 stands for as many as torch takes.
    """
    return 1 if params < SMALL else known


@contextmanager
def suited_threads(params: int) -> Iterator[None]:
    """Compute a small model on one thread, where nobody gave it a number of cores.

    torch takes every core. Beside other work its threads then wait for each other at each of the
    small matrices: on a busy machine of four cores the embedded model's scoring took twenty times
    as long.

    Args:
        params: of the model.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if params < SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def autocast_dtype(device: torch.device | str) -> torch.dtype | None:
    """Return bfloat16 where ``device`` computes it natively and gains by it, else None.

    CPUs are left in float32: at the widths of small models autocast costs more than it saves.
    float16 is never chosen, since it would need loss scaling.
    """
    import torch

    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return None
