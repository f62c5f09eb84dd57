"""What is said when work on a worker fails."""

from __future__ import annotations

from autoprune.search.workers.failures import lost_reason, ran_out_of_memory

KILLED = "2 worker(s) were killed due to the node running low on memory. Memory was 22.47GB used"


def test_a_machine_without_memory_is_told_from_a_bug() -> None:
    outer = RuntimeError("Caught unexpected exception")
    outer.__cause__ = OSError(KILLED)
    assert ran_out_of_memory(outer)
    assert not ran_out_of_memory(RuntimeError("out of paper"))
    assert lost_reason(f"OutOfMemoryError\n{KILLED}") == (
        "its worker was killed twice: the machine ran out of memory"
    )
