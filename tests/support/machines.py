"""A machine that lacks nothing, for tests to take something from."""

from __future__ import annotations

from autoprune.doctor.machine import Gpu, Machine

GIB = 2**30

WELL = Machine(
    cores=8,
    load=0.5,
    memory=32 * GIB,
    available=24 * GIB,
    shared=16 * GIB,
    disk=100 * GIB,
    open_files=65536,
    gpus=(Gpu("NVIDIA L4", 24 * GIB, 23 * GIB),),
    driver=True,
)
