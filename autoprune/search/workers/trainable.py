"""A trial on a worker: one step a rung.

What a trial does wrong is an answer, not a crash: an exception, a lack of memory or a result
that is no number comes back as ``error``, and the worker takes the next trial. Only a worker
that is killed is seen by Ray Tune, which starts the trial once more from its checkpoint.
"""

from __future__ import annotations

import json
import math
import shutil
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from autoprune.errors import AutoPruneError
from autoprune.search.records.store import part_of
from autoprune.search.work import Refinement, Rung, TrialJob, TrialRun
from autoprune.search.workers.assets import Parcel, open_bench
from autoprune.search.workers.failures import reason_of, release_memory

_STATE = "state.json"


class Trial(tune.Trainable):
    """Ray Tune's view of a trial.

    ``config`` holds ``number``, ``knobs`` and ``refinement`` (JSON), ``seed`` and ``checkpoint``
    (a directory).
    A result holds ``number``, ``done`` and either ``fields`` (JSON: those of ``TrialRecord``
    that are known now) or ``error`` and ``trace``.

    Life: ``setup`` once a process, ``reset_config`` for each further trial, ``step`` a rung.
    The state of a rung is written when the next one begins, so that a trial which is stopped
    never pays for it, and a killed one loses the rung in flight only.
    """

    def setup(self, config: dict[str, Any], parcel: Parcel | None = None) -> None:
        """Take the first trial."""
        assert parcel is not None
        self._parcel = parcel
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; the one before has ended."""
        shutil.rmtree(self._checkpoint, ignore_errors=True)
        self._take(new_config)
        return True

    def _take(self, config: Mapping[str, Any]) -> None:
        knobs, refinement = json.loads(config["knobs"]), json.loads(config["refinement"])
        self._job = TrialJob(
            config["number"],
            knobs,
            config["seed"],
            None if refinement is None else Refinement.from_dict(refinement),
        )
        self._checkpoint = Path(config["checkpoint"])
        self._run: TrialRun | None = None
        self._done_rung = -1
        self._unsaved = False

    def step(self) -> dict[str, Any]:
        """Run the next rung."""
        try:
            return self._rung()
        except Exception as error:
            trace = traceback.format_exc()
            self._run = None
            # The frames hold the tensors of a trial that ran out of memory.
            traceback.clear_frames(error.__traceback__)
            release_memory()
            return {
                "number": self._job.number,
                "error": reason_of(error),
                "trace": trace,
                "done": True,
            }

    def _rung(self) -> dict[str, Any]:
        if self._run is None:
            self._run = open_bench(self._parcel).start(self._job)
            self._restore()
        elif self._unsaved:
            self._save()
        rungs = self._parcel.rungs
        index = self._done_rung + 1
        share = rungs[index]
        last = index == len(rungs) - 1
        measured = self._run.rung(share, share > 0 or last)
        fields = {**self._run.describe(), **fields_of(measured), "rung": index, "fidelity": share}
        _check_finite(fields, index, share, last)
        self._done_rung = index
        self._unsaved = share > 0 and not last
        if last:
            # The checkpoint stays until the driver has the result, or the next trial comes:
            # a worker outlives a killed driver for a moment, and what it ends then is lost.
            self._run = None
            release_memory()
        return {"number": self._job.number, "fields": json.dumps(fields), "done": last}

    def _save(self) -> None:
        """Write the run's state beside the last one and swap."""
        assert self._run is not None
        part = part_of(self._checkpoint)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        self._run.save(part)
        (part / _STATE).write_text(json.dumps({"rung": self._done_rung}))
        shutil.rmtree(self._checkpoint, ignore_errors=True)
        part.rename(self._checkpoint)
        self._unsaved = False

    def _restore(self) -> None:
        """Go on from a checkpoint, where an earlier session or worker left one."""
        assert self._run is not None
        state = self._checkpoint / _STATE
        if state.is_file():
            self._run.load(self._checkpoint)
            self._done_rung = int(json.loads(state.read_text())["rung"])

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial keeps its own checkpoint, one, under the search's directory."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing; see ``save_checkpoint``."""


def fields_of(measured: Rung) -> dict[str, Any]:
    """Return what a rung measured as fields of ``TrialRecord``, plain JSON values."""
    fields: dict[str, Any] = {
        "stage_seconds": dict(measured.seconds),
        "flops": float(measured.flops),
    }
    if measured.proxy_kl is not None:
        fields["proxy_kl"] = float(measured.proxy_kl)
    if measured.retention is not None:
        fields["retention"] = float(measured.retention)
        fields["retention_raw"] = measured.retention_raw
        fields["scores"] = dict(measured.per_task)
        fields["missed"] = dict(measured.missed)
    return fields


def _check_finite(fields: Mapping[str, Any], rung: int, share: float, last: bool) -> None:
    for name in ("proxy_kl", "retention"):
        value = fields.get(name)
        if value is not None and not math.isfinite(value):
            raise AutoPruneError(f"{name} is {value} at rung {rung} ({share:.0%} of the recovery)")
    if last and fields.get("retention") is None:
        raise AutoPruneError("its last rung gave no retention")
