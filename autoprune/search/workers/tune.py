"""Ray Tune's searcher and scheduler, as thin adapters over a campaign.

Ray Tune pickles both when it writes its own state. We restore from our own records instead,
so that their pickle is empty. There is no Tune callback: with one, Tune imports MLflow and
wandb on the driver, for seconds, to count it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from autoprune.search.campaign import Campaign
from autoprune.search.work import Refinement
from autoprune.search.workers.failures import lost_reason


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
        self.lost: dict[str, str] = {}  # what Ray wrote of the loss of a trial's worker

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
            "refinement": _as_json(job.refinement),
            "seed": job.seed,
            "checkpoint": str(self.campaign.store.rung_dir(job.number)),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take in that a worker was lost for good; the scheduler heard why just before.

        Every other end is the scheduler's to report.
        """
        if error:
            text = self.lost.pop(trial_id, "")
            self.campaign.failed(self.numbers[trial_id], lost_reason(text), text)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the records are the state."""
        with open(checkpoint_path, "w") as stream:
            json.dump(self.numbers, stream)

    def restore(self, checkpoint_path: str) -> None:
        """Read back which trial is whose."""
        with open(checkpoint_path) as stream:
            self.numbers = json.load(stream)


class CampaignScheduler(_Live, FIFOScheduler):
    """Asks the campaign at each rung whether a trial goes on, and tells it how trials end.

    Args:
        searcher: of the same Tune run.
        interrupt: called between events; raises to end the search.
    """

    def __init__(self, searcher: CampaignSearcher, interrupt: Callable[[], None]) -> None:
        super().__init__()
        self.searcher = searcher
        self.campaign = searcher.campaign
        self._interrupt = interrupt

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """End here when told to: nothing is half done between two events."""
        self._interrupt()
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Take in a rung that is not the last."""
        goes_on = self.campaign.arrived(result["number"], json.loads(result["fields"]))
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Take in the end of a trial: finished, stopped at a rung, or an error it sent."""
        number = trial.config["number"]
        if "error" in result:
            self.campaign.failed(number, result["error"], result.get("trace", ""))
            return
        fields = json.loads(result["fields"])
        if fields["fidelity"] < 1.0:
            self.campaign.stopped(number)
            return
        self.campaign.arrived(number, fields)
        self.campaign.finished(number)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Note why a worker was lost; Tune tries the trial once more, or gives it up.

        A layout that was found before stands in the record: the second try need not climb again.
        """
        trial.config["refinement"] = _as_json(self.campaign.refinement(trial.config["number"]))
        path = Path(trial.error_file) if trial.error_file else None
        if path is not None and path.is_file():
            self.searcher.lost[trial.trial_id] = path.read_text()


def _as_json(refinement: Refinement | None) -> str:
    return json.dumps(refinement and refinement.to_dict())
