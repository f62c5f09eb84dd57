"""What is said, and given back, when work on a worker fails."""

from __future__ import annotations

import gc
import re
import sys

from autoprune.errors import AutoPruneError

_MEMORY = re.compile(r"running low on memory|memory monitor")


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Ray's is that it ended workers of a machine without memory."""
    chain: BaseException | None = error
    while chain is not None:
        if _MEMORY.search(str(chain)):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def reason_of(error: BaseException) -> str:
    """Return a line that says why a trial failed."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, MemoryError):
        return f"out of memory{': ' + text if text else ''}"
    if type(error).__name__ in ("OutOfMemoryError", "CUDAOutOfMemoryError"):
        return f"out of GPU memory: {text}"
    if isinstance(error, RuntimeError) and "can't allocate memory" in text:
        return f"out of memory: {text}"
    if isinstance(error, AutoPruneError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def release_memory() -> None:
    """Give back what a trial held, GPU memory included."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def lost_reason(text: str) -> str:
    """Return a line that says why a worker was lost, out of what Ray wrote about it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any("creation task" in line for line in lines):
        return f"its worker did not start: {lines[-1][:300]}"
    if any(_MEMORY.search(line) for line in lines):
        return "its worker was killed twice: the machine ran out of memory"
    details = [line for line in lines if "exit detail" in line or "Worker exit type" in line]
    return "its worker was killed twice" + (f" ({details[-1][:200]})" if details else "")
