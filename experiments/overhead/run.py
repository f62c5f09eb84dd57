"""What orchestration costs: a 40-trial search's wall time against the compute inside its trials.

    python experiments/overhead/run.py --home /tmp/overhead --seeds 0 1 2

Needs a machine that does nothing else. The first, uncounted search fills the caches.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

HERE = Path(__file__).parent
FIELDS = (
    "seed",
    "trials",
    "workers",
    "startup_seconds",
    "trials_wall_seconds",
    "compute_seconds",
    "overhead_percent",
    "confirm_wall_seconds",
    "peak_pss_gib",
)


def one_search(
    home: Path, seed: int, trials: int, workers: int, started: float
) -> dict[str, float]:
    """Run one search in this process and time its stages; ``started`` is the process's start."""
    from autoprune.search.driver import run_search
    from autoprune.search.listener import SearchListener
    from autoprune.search.settings import make_settings
    from autoprune.tracking.records.trial import TrialRecord

    class Clock(SearchListener):
        def __init__(self) -> None:
            self.first: float | None = None
            self.last = 0.0
            self.records: dict[int, TrialRecord] = {}

        def on_trial(self, record: TrialRecord) -> None:
            now = time.time()
            self.records[record.trial] = record
            if record.stage_seconds and self.first is None:
                # A trial is reported after its first rung: its compute lies before.
                self.first = now - sum(record.stage_seconds.values())
            self.last = now

    clock = Clock()
    values = {
        "name": f"overhead-{trials}-{seed}",
        "home": home,
        "trials": trials,
        "workers": workers,
        "seed": seed,
        "confirm_seeds": 1,
        "confirm_points": 2,
    }
    run_search(make_settings(values), clock)
    done = time.time()
    compute = sum(sum(r.stage_seconds.values()) for r in clock.records.values())
    wall = clock.last - (clock.first or started)
    return {
        "seed": seed,
        "trials": trials,
        "workers": workers,
        "startup_seconds": (clock.first or started) - started,
        "trials_wall_seconds": wall,
        "compute_seconds": compute,
        "overhead_percent": 100 * (1 - compute / (workers * wall)),
        "confirm_wall_seconds": done - clock.last,
    }


def watch_memory(pid: int, stop: threading.Event, peak: list[float]) -> None:
    """Keep the largest proportional memory of a process and all it started, in GiB."""
    while not stop.wait(1.0):
        total = 0
        try:
            family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in family:
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        peak[0] = max(peak[0], total / 2**30)


def measured(home: Path, seed: int, trials: int, workers: int) -> dict[str, float]:
    """Run one search in a fresh process, which pays for its own imports, and watch its memory."""
    command = [sys.executable, __file__, "--home", str(home), "--one", str(seed)]
    command += ["--trials", str(trials), "--workers", str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stop, peak = threading.Event(), [0.0]
    watcher = threading.Thread(target=watch_memory, args=(process.pid, stop, peak))
    watcher.start()
    out, _ = process.communicate()
    stop.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"the search with seed {seed} failed")
    return {**json.loads(out.splitlines()[-1]), "peak_pss_gib": peak[0]}


def main() -> None:
    started = psutil.Process(os.getpid()).create_time()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--one", type=int, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        row = one_search(given.home, given.one, given.trials, given.workers, started)
        print(json.dumps(row))
        return
    measured(given.home, 999, 2, given.workers)
    rows = [measured(given.home, seed, given.trials, given.workers) for seed in given.seeds]
    with (HERE / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()
        writer.writerows({k: round(row[k], 2) for k in FIELDS} for row in rows)
    for field in FIELDS[3:]:
        values = [row[field] for row in rows]
        print(
            f"{field:22} median {statistics.median(values):8.2f}  range "
            f"{min(values):.2f} … {max(values):.2f}"
        )
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
