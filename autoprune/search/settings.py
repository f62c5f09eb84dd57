"""What a search is asked to do; checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, ValidationError, model_validator

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.identity import content_hash
from autoprune.search.goal import SPACE_OF, GoalSettings
from autoprune.search.knobs.space import load_space
from autoprune.search.machine import MachineSettings
from autoprune.search.measuring import MeasuringSettings
from autoprune.search.options import flag, problem_line
from autoprune.search.own_data import DataSettings
from autoprune.search.proposals import ProposalSettings
from autoprune.search.running import RunningSettings

FREE = frozenset(
    {
        "name",
        "home",
        "trials",
        "max_hours",
        "patience",
        "workers",
        "cpus_per_trial",
        "gpus_per_trial",
        "ray_address",
        "tracking_uri",
        "cache_limit",
        "keep",
        "data",
        "images",
    }
)
"""Settings that may change when a search is resumed: they decide neither what is searched
nor how a trial is scored. Data may lie elsewhere by then; its content counts, see
``data_identity``."""

LATER = frozenset(
    {
        "deployable",
        "multiple",
        "quantize",
        "objective",
        "timed",
        "device",
        "context",
        "images_per_prompt",
        "image_tokens",
        "cost_model",
        "refine",
        "rung_share",
        "warm_start",
        "warm_baselines",
        "task_data",
        "capabilities",
        "floors",
        "columns",
        "max_length",
        "data_identity",
    }
)
"""Settings that searches of earlier versions do not know. At its default such a setting is not
part of a search's identity, so that those searches can be resumed."""


class SearchSettings(
    RunningSettings,
    DataSettings,
    MachineSettings,
    MeasuringSettings,
    ProposalSettings,
    GoalSettings,
):
    """Every setting of a search. Frozen; unknown fields are refused.

    Pydantic reads the bases from the last to the first, so that what a user asks for comes first
    in files, and in what is said to differ. Each base names its validators as no other does, or
    one would take another's place.

    Use :func:`make_settings`, which turns a wrong value into a line for the user.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="after")
    def _named(self) -> SearchSettings:
        if not self.space:
            object.__setattr__(self, "space", SPACE_OF[self.deployable])
        if not self.name:
            object.__setattr__(self, "name", f"search-{self.identity()[:6]}")
        return self

    def identity(self) -> str:
        """Return the content hash of what must agree when a search is resumed."""
        return content_hash(self.fixed())

    def fixed(self) -> dict[str, Any]:
        """Return the settings that must agree when a search is resumed, as plain JSON values.

        A space file counts by its content, not by its path.
        """
        values = self.model_dump(mode="json", exclude=set(FREE))
        for field in LATER:
            if values[field] == default_of(field):
                del values[field]
        values["space"] = load_space(self.space).model_dump(mode="json")
        return values


def default_of(field: str) -> Any:
    """Return the default of a setting as a plain JSON value."""
    value = SearchSettings.model_fields[field].default
    return list(value) if isinstance(value, tuple) else value


def make_settings(values: Mapping[str, Any]) -> SearchSettings:
    """Check ``values`` and return the settings.

    Raises:
        AutoPruneError: one line that names the option, the value and what is allowed.
    """
    try:
        return SearchSettings(**values)
    except ValidationError as error:
        problem = error.errors()[0]
        field = str(problem["loc"][0]) if problem["loc"] else "settings"
        if problem["type"] == "extra_forbidden":
            known = did_you_mean(field, SearchSettings.model_fields)
            raise AutoPruneError(f"unknown setting {field!r}{known}") from None
        raise AutoPruneError(problem_line(flag(field), problem)) from None
