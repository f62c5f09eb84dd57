"""Scripts run by a fresh process, which is as far from AutoPrune as a user's own would be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoprune.errors import AutoPruneError

UNPROVED = (
    "nothing was written; the installed transformers may differ from the one AutoPrune was tested "
    "with (constraints.txt): install that one, or report this line"
)
"""What a proof that failed means for the user, and what there is to do."""

_HIDDEN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")


def run_fresh(
    script: Path, requests: Sequence[Path], scratch: Path, what: str
) -> list[dict[str, Any]]:
    """Run a script on requests in a fresh process and return what it found, one object each.

    The process runs in ``scratch``, with an empty cache of remote code, offline, and without the
    environment's Python paths.

    Args:
        script: prints one JSON object a request, as its last lines.
        requests: files that are passed to it.
        scratch: an empty directory.
        what: is loaded there, for the error: ``the saved checkpoint``.

    Raises:
        AutoPruneError: if the process fails; with the last line that it wrote.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _HIDDEN}
    environment["HF_MODULES_CACHE"] = str(scratch / "modules")
    environment["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run(
        [sys.executable, "-I", str(script), *map(str, requests)],
        cwd=scratch,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise AutoPruneError(f"{what} does not load in a fresh process ({reason}): {UNPROVED}")
    return [json.loads(line) for line in done.stdout.strip().splitlines()[-len(requests) :]]
