"""Ray Tune's searcher, scheduler and callback, as thin adapters over a campaign.

Ray Tune pickles all three when it writes its own state. We restore from our own records
instead, so that their pickle is empty.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from autoprune.search.campaign import Campaign


class _Live:
    """Holds the campaign, and leaves it behind when pickled or copied."""

    campaign: Campaign

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class CampaignSearcher(_Live, Searcher):
    """Suggests what the campaign launches next, no more at once than there are workers.

    Keyed on Ray's trial ids, which the campaign never sees: ``config["number"]`` is ours.

    Args:
        campaign: gives the work.
        ahead: trials that may be suggested beyond the workers; 1 hides the time that a slow
            sampler thinks.
        on_drained: called once, when there is nothing left to launch.
    """

    def __init__(
        self, campaign: Campaign, ahead: int = 0, on_drained: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self.campaign = campaign
        self._on_drained = on_drained
        self._limit = campaign.settings.workers + ahead
        self.numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next trial's config; None while all workers are busy; or FINISHED."""
        if len(self.campaign.live) >= self._limit:
            return None
        job = self.campaign.next_job()
        if job is None:
            if self._on_drained is not None:
                self._on_drained()
            return Searcher.FINISHED
        self.numbers[trial_id] = job.number
        return {
            "number": job.number,
            "knobs": json.dumps(dict(job.knobs)),
            "seed": job.seed,
            "checkpoint": str(self.campaign.store.rung_dir(job.number)),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: the callback hears of it with more detail."""

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the records are the state."""
        with open(checkpoint_path, "w") as stream:
            json.dump(self.numbers, stream)

    def restore(self, checkpoint_path: str) -> None:
        """Read back which trial is whose."""
        with open(checkpoint_path) as stream:
            self.numbers = json.load(stream)


class CampaignScheduler(_Live, FIFOScheduler):
    """Asks the campaign at each rung whether a trial goes on."""

    def __init__(self, campaign: Campaign) -> None:
        super().__init__()
        self.campaign = campaign

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Take in a rung that is not the last."""
        goes_on = self.campaign.arrived(result["number"], json.loads(result["fields"]))
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP


class CampaignCallback(_Live, Callback):
    """Tells the campaign how trials end, and ends the search between two events.

    Args:
        campaign: is told.
        interrupt: called between events; raises to end the search.
    """

    def __init__(self, campaign: Campaign, interrupt: Callable[[], None]) -> None:
        self.campaign = campaign
        self._interrupt = interrupt

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """End here when told to: nothing is half done between two events."""
        self._interrupt()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take in the end of a trial: finished, stopped by the scheduler, or an error it sent."""
        number = trial.config["number"]
        result = trial.last_result
        if "error" in result:
            self.campaign.failed(number, result["error"], result.get("trace", ""))
            return
        fields = json.loads(result["fields"]) if "fields" in result else {}
        if fields.get("fidelity", 0.0) < 1.0:
            self.campaign.stopped(number)
            return
        self.campaign.arrived(number, fields)
        self.campaign.finished(number)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take in that a worker was lost, twice."""
        # Both files lie in Tune's own directory; the text holds every attempt.
        text = Path(trial.error_file).read_text() if trial.error_file else ""
        self.campaign.failed(trial.config["number"], lost_reason(text), text)

    def get_state(self) -> None:
        """Nothing to checkpoint."""
        return


def lost_reason(text: str) -> str:
    """Return a line that says why a worker was lost, out of what Ray wrote about it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any("creation task" in line for line in lines):
        return f"its worker did not start: {lines[-1][:300]}"
    if any("running low on memory" in line or "memory monitor" in line for line in lines):
        return "its worker was killed twice: the machine ran out of memory"
    details = [line for line in lines if "exit detail" in line or "Worker exit type" in line]
    return "its worker was killed twice" + (f" ({details[-1][:200]})" if details else "")
