"""Rows that other packages add: real distributions on the path, as an installer leaves them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autoprune import plugins
from autoprune.cost.latency import COST_MODELS, modelled_latency
from autoprune.errors import AutoPruneError
from autoprune.plugins import Table, plugin_names
from autoprune.pruning.scores import CRITERIA, scores
from autoprune.recovery.losses import LOSSES, needs_of
from autoprune.recovery.recipe import RecoveryRecipe
from autoprune.search.knobs.space import parse_space
from autoprune.search.sampling.samplers import SAMPLERS
from autoprune.search.settings import make_settings
from autoprune.testing import check_cost_model, check_criterion, check_loss, check_sampler
from autoprune.testing.cost_models import DEVICE, PROMPT
from autoprune.testing.toy import toy_importance, toy_spec

CODE = '''
import numpy as np
from autoprune.cost.latency import COST_MODELS
from autoprune.recovery.losses import Loss, Needs
from autoprune.search.sampling.samplers import SAMPLERS

def squared(importance, kind, text_weight):
    """The weight's magnitude, squared."""
    return getattr(importance, f"magnitude_{kind}") ** 2

absolute = Loss(
    Needs.TEACHER_HIDDEN, lambda a: (a.hidden.float() - a.teacher_hidden.float()).abs().mean(-1)
)
mine = SAMPLERS["random"]

def doubled(*asked):
    return 2 * COST_MODELS["roofline"](*asked)

number = 5
nothing = lambda *asked: 0
'''
POINTS = {
    "autoprune.criteria": {"squared": "other_package:squared"},
    "autoprune.losses": {"absolute": "other_package:absolute", "number": "other_package:number"},
    "autoprune.samplers": {"mine": "other_package:mine", "gone": "not_there:gone"},
    "autoprune.cost_models": {
        "doubled": "other_package:doubled",
        "nothing": "other_package:nothing",
    },
}


def install(folder: Path, name: str, points: dict[str, dict[str, str]], code: str = "") -> None:
    """Lay a distribution out in ``folder`` as an installer would."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, rows in points.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in rows.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    if code:
        (folder / f"{name.replace('-', '_')}.py").write_text(code)


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    install(tmp_path, "other-package", POINTS, CODE)
    monkeypatch.syspath_prepend(tmp_path)
    plugins._found.cache_clear()
    yield tmp_path
    plugins._found.cache_clear()
    sys.modules.pop("other_package", None)


def test_rows_are_found_and_imported_when_asked_for(other_package: Path) -> None:
    assert "squared" in CRITERIA
    assert set(plugin_names("autoprune.losses")) == {"absolute", "number"}
    assert "other_package" not in sys.modules
    check_criterion(CRITERIA["squared"])
    check_loss(LOSSES["absolute"])
    check_sampler(SAMPLERS["mine"])
    check_sampler("mine")
    check_cost_model(COST_MODELS["doubled"])
    assert "other_package" in sys.modules


def test_their_rows_work_where_ours_do(other_package: Path) -> None:
    importance = toy_importance(toy_spec(3, 4, 2, 8, 0))
    found = scores(importance, "squared")
    expected = importance.magnitude_channels**2 / importance.channel_params[:, None]
    assert np.array_equal(found.channels, expected)
    assert needs_of({"sft": 1.0, "absolute": 0.5}) == LOSSES["sft"].needs | LOSSES["absolute"].needs
    recipe = RecoveryRecipe(sft=0.5, others=(("absolute", 0.5),))
    assert recipe.name == "full sft+absolute"
    assert RecoveryRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert "others" not in RecoveryRecipe().to_dict()
    space = parse_space(
        "description: x\nknobs: {criterion: [squared, taylor], recovery: [sft+absolute, sft]}", "x"
    )
    assert space.knobs["recovery"].values() == ("sft+absolute", "sft")
    assert make_settings({"sampler": "mine"}).sampler == "mine"
    plain, theirs = make_settings({}), make_settings({"cost_model": "doubled"})
    assert plain.identity() != theirs.identity()
    asked = (toy_spec(4, 8, 4, 48, 0), None, "float32", PROMPT, DEVICE)
    assert modelled_latency(*asked, "doubled").seconds == 2 * modelled_latency(*asked).seconds


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda: LOSSES["number"], "losses 'number' of package other-package is a int"),
        (lambda: SAMPLERS["gone"], "samplers 'gone' of package other-package does not load"),
        (lambda: make_settings({"sampler": "min"}), "did you mean 'mine'"),
        (lambda: make_settings({"cost_model": "double"}), "did you mean 'doubled'"),
        (
            lambda: modelled_latency(
                toy_spec(4, 8, 4, 48, 0), None, "float32", PROMPT, DEVICE, "nothing"
            ),
            "cost model 'nothing' says 0 s a token",
        ),
        (
            lambda: parse_space("description: x\nknobs: {recovery: [absolute+none, sft]}", "x"),
            "'absolute\\+none' is not one of",
        ),
        (
            lambda: RecoveryRecipe(others=(("kl", 1.0),)),
            "loss 'kl' has weight 1.0 among the others",
        ),
        (
            lambda: RecoveryRecipe.from_dict({"others": [1]}),
            "'others' is \\[1\\]: it must be pairs",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(other_package: Path, read: object, words: str) -> None:
    assert callable(read)
    with pytest.raises(AutoPruneError, match=words) as error:
        read()
    assert "\n" not in str(error.value)


def test_our_names_are_ours_and_no_name_is_taken_twice(other_package: Path, tmp_path: Path) -> None:
    ours: Table[int] = Table("autoprune.criteria", {"squared": 1}, lambda row: True, "a number")
    assert ours["squared"] == 1
    install(tmp_path, "third", {"autoprune.criteria": {"squared": "third:squared"}})
    plugins._found.cache_clear()
    with pytest.raises(AutoPruneError, match="have one name: uninstall one"):
        "cubed" in CRITERIA  # noqa: B015
    with pytest.raises(KeyError):
        SAMPLERS["unknown"]


def test_a_search_uses_them_in_its_workers(other_package: Path, tmp_path: Path) -> None:
    space = tmp_path / "theirs.yaml"
    space.write_text(
        "description: theirs\n"
        "rungs: [0, 1]\n"
        "knobs: {size: {low: 0, high: 1}, criterion: squared, recovery: sft+absolute}\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "autoprune.cli", "search", "--space", str(space)),
            *("--sampler", "mine", "--trials", "1", "--workers", "1", "--no-baselines"),
            *("--refine", "0", "--max-recovery-samples", "32", "--search-samples", "24"),
            *("--confirm-samples", "24", "--confirm-seeds", "1", "--home", str(tmp_path / "home")),
            *("--name", "theirs", "--json"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (point,) = json.loads(done.stdout)["points"]
    assert point["recovery"] == "full sft+absolute"
