"""Run searches of several lengths, and set what each was forecast to take beside what it took.

    python -m experiments.forecast.run --home /tmp/forecast

Searches run one after the other, as a user would start them, in a process each. A search that is
in ``rows.jsonl`` is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments.cells import read_rows
from experiments.pages import into, table

HERE = Path(__file__).parent
CASES = ((12, 1), (12, 2), (24, 1), (24, 2))
"""Trials and workers."""


def run(home: Path, trials: int, workers: int) -> dict[str, Any]:
    """Run one search from the command line, and return its stages."""
    name = f"forecast-{trials}-{workers}"
    options = ["--budget", "60%", "--trials", str(trials), "--workers", str(workers)]
    command = [sys.executable, "-m", "autoprune.cli", "search", *options, "--name", name]
    done = subprocess.run(
        [*command, "--home", str(home), "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    stages = json.loads(done.stdout)["stages"]
    return {"key": name, "trials": trials, "workers": workers, "stages": stages}


def lines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line a search: forecast and fact, in all and by stage, in seconds."""
    found = []
    for row in rows:
        stages = {stage["stage"]: stage for stage in row["stages"]}
        said = sum(stage["forecast"] for stage in stages.values())
        took = sum(stage["seconds"] for stage in stages.values())
        line = {"trials": row["trials"], "workers": row["workers"], "forecast, s": round(said)}
        line |= {"took, s": round(took), "forecast − took": f"{said / took - 1:+.0%}"}
        for name, stage in stages.items():
            line[f"{name}, s"] = f"{stage['forecast']:.0f} → {stage['seconds']:.0f}"
        found.append(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--home",
        type=Path,
        required=True,
        help="an empty one: what is cached there is forecast as cached",
    )
    given = parser.parse_args()
    path = HERE / "rows.jsonl"
    rows = read_rows(path)
    for trials, workers in CASES:
        if f"forecast-{trials}-{workers}" not in rows:
            row = run(given.home, trials, workers)
            with path.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
    text = table(lines(list(read_rows(path).values())))
    print(text)
    into(HERE / "README.md", text)


if __name__ == "__main__":
    main()
