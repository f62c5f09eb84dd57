"""The contract that every sampler keeps, as a table over all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoprune.errors import AutoPruneError
from autoprune.search.records.storage import open_storage
from autoprune.search.sampling.samplers import SAMPLERS, derived_seed, make_sampler
from autoprune.search.study import SearchStudy
from autoprune.testing.samplers import SPACE, check_sampler, toy_score


def study(
    name: str, path: Path, seed: int = 0, trials: int = 40, journal: str = "j"
) -> SearchStudy:
    return SearchStudy(
        open_storage(None, path / journal), "s", SPACE.distributions(), name, seed, trials
    )


@pytest.mark.parametrize("name", [name for name, row in SAMPLERS.items() if not row.walks])
class TestEverySampler:
    def test_contract(self, name: str) -> None:
        check_sampler(name)

    @pytest.mark.parametrize("rung", [0, 1])
    def test_what_was_stopped_is_not_proposed_as_good(
        self, name: str, rung: int, tmp_path: Path
    ) -> None:
        """Stopped trials look good by their low-fidelity value; nothing follows them."""
        s = study(name, tmp_path, trials=40)
        rng = np.random.default_rng(0)
        dominated = []
        for number in range(30):
            # Half of the trials lie at temperature below 0.3 and are stopped.
            bad = number % 2 == 1
            knobs = {
                "size": rng.uniform(),
                "axis": "width",
                "temperature": rng.uniform(0, 0.3) if bad else rng.uniform(0.5, 0.9),
                "protect_first": 0,
            }
            s.enqueue(number, knobs, "given")
            size, value = toy_score(knobs)
            if bad:
                s.stop(number, size, rung, 5.0)  # far above anything that finished
            else:
                s.complete(number, size, value, {0: value - 1, 1: 0.7 * value})
        s.settle(final=True)
        trials = s.trials()
        finished = [t for t in trials if t.values and t.user_attrs["fidelity"] == 1.0]
        for trial in trials:
            if trial.user_attrs["fidelity"] == 0.0 and trial.values:
                dominated.append(trial.number)
                assert trial.user_attrs["predicted"] == trial.values[1]
                assert any(
                    f.values[0] <= trial.values[0] and f.values[1] > trial.values[1]
                    for f in finished
                )
        assert len(dominated) >= 10
        proposed = [s.ask(number)["temperature"] for number in range(30, 38)]
        if name in ("tpe", "gp"):  # the others do not model, or not yet
            assert np.mean(np.array(proposed) < 0.3) <= 0.3


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_running_trials_repel_the_next_suggestion(name: str, tmp_path: Path) -> None:
    """Parallel suggestions do not pile up where the model sees the most to gain."""
    near = {}
    for running in (0, 12):
        s = study(name, tmp_path, trials=60, journal=f"{running}")
        rng = np.random.default_rng(1)
        for number in range(24):
            knobs = {
                "size": rng.uniform(),
                "axis": "width",
                "temperature": rng.uniform(),
                "protect_first": 0,
            }
            s.enqueue(number, knobs, "given")
            size, value = toy_score(knobs)
            s.complete(number, size, 10 * value, {})
        for number in range(100, 100 + running):
            place = 0.7 + 0.005 * (number - 106)
            point = {"size": 0.5, "axis": "width", "temperature": place, "protect_first": 0}
            s.enqueue(number, point, "given")
        asked = [s.ask(number)["temperature"] for number in range(200, 206)]
        assert len(set(asked)) == len(asked)
        near[running] = np.mean(np.abs(np.array(asked) - 0.7))
    assert near[12] > near[0]


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_predicted_and_measured_trials_go_together(name: str, tmp_path: Path) -> None:
    s = study(name, tmp_path, trials=40)
    for number in range(16):
        size, value = toy_score(s.ask(number))
        if number % 4 == 3:
            s.stop(number, size, 1, value / 2)
        else:
            s.complete(number, size, value, {0: -1.0, 1: value})
    s.settle()
    assert any(t.user_attrs.get("fidelity") == 0.0 and t.values for t in s.trials())
    assert set(s.ask(16)) == set(SPACE.distributions())


def test_samplers_say_nothing(tmp_path: Path) -> None:
    """What a library finds worth a warning would stand amid a search's progress."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "from autoprune.testing.samplers import play; from test_samplers import study;"
        "[play(study(name, Path(sys.argv[2]), trials=4, journal=name), range(6))"
        " for name in ('tpe', 'gp', 'nsga2', 'random')]"
    )
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code, here, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_unknown_sampler_names_the_nearest() -> None:
    with pytest.raises(AutoPruneError, match="did you mean 'nsga2'"):
        make_sampler("nsga3", 0, 10)


def test_derived_seeds_differ_and_repeat() -> None:
    seeds = {derived_seed(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900
    assert derived_seed(1, 2) == derived_seed(1, 2) != derived_seed(2, 1)
