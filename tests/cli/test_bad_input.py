"""Bad input: one line that names the value and the mend, exit 2, nothing started, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from autoprune.cli.main import run
from autoprune.search.options import flag
from autoprune.search.settings import SearchSettings

SPACE = """
description: a small space
rungs: [0, 1]
knobs:
  size: {low: 0, high: 1}
  axis: [width, hybrid]
"""


@dataclass(frozen=True)
class Bad:
    """A command line and the words that its one line of error must hold.

    ``{dir}`` in an argument is the test's own directory; ``prepare`` fills it first.
    """

    what: str
    arguments: str
    says: tuple[str, ...]
    prepare: Callable[[Path], None] = lambda folder: None


def space_file(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "mine.yaml").write_text(text) and None


def a_file(folder: Path) -> None:
    (folder / "taken").write_text("not a directory")


def model_dir(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Copy the embedded model's directory and break it."""

    def prepare(folder: Path) -> None:
        from autoprune.zoo import embedded_path

        shutil.copytree(embedded_path(), folder / "model")
        change(folder / "model")

    return prepare


def no_weights(model: Path) -> None:
    for path in model.glob("*.safetensors"):
        path.unlink()


def truncated(model: Path) -> None:
    for path in model.glob("*.safetensors"):
        os.truncate(path, path.stat().st_size // 2)


def other_architecture(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["model_type"] = "bloom"
    (model / "config.json").write_text(json.dumps(config))


def started_search(folder: Path) -> None:
    """Leave a search that was started with the default settings."""
    from autoprune.search.records.store import SearchStore, search_dir
    from autoprune.search.settings import make_settings

    settings = make_settings({"name": "first", "home": folder / "home"})
    SearchStore(search_dir(folder / "home", "first")).open(settings)


def full_directory(folder: Path) -> None:
    from autoprune.search.records.store import SearchStore, search_dir
    from autoprune.tracking.records.trial import TrialRecord

    started_search(folder)
    record = TrialRecord(trial=0, state="complete", params=9, fraction=0.5, retention=0.8)
    SearchStore(search_dir(folder / "home", "first")).write_record(record)
    (folder / "out").mkdir()
    (folder / "out" / "precious.txt").write_text("keep me")


def damaged_candidate(folder: Path) -> None:
    full_directory(folder)
    kept = folder / "home" / "searches" / "first" / "kept" / "0000"
    kept.mkdir(parents=True)
    (kept / "candidate.json").write_text('{"plan": ')


def checkpoint(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Leave what ``apply`` writes of a checkpoint's card, and break it."""

    def prepare(folder: Path) -> None:
        (folder / "cut").mkdir()
        for name in ("plan", "recipe", "scores", "search"):
            (folder / "cut" / f"{name}.json").write_text("{}")
        change(folder / "cut")

    return prepare


def exported_graphs(model: Path) -> None:
    no_weights(model)
    (model / "onnx").mkdir()


SEARCH = "search --home {dir}/home"


def numbers() -> dict[str, str]:
    """Return every numeric option of a search, and what it takes."""
    found = {}
    for name, info in SearchSettings.model_fields.items():
        kinds = {info.annotation, *get_args(info.annotation)}
        if kinds & {int, float}:
            found[flag(name)] = "a whole number" if int in kinds else "a number"
    return found


NUMBERS = numbers()
TABLE = [
    Bad("budget unit", f"{SEARCH} --budget 3X", ("3X", "3B-params", "60%")),
    Bad("budget word", f"{SEARCH} --budget small", ("small", "60%")),
    Bad("budget sign", f"{SEARCH} --budget -60%", ("-60%",)),
    Bad("budget zero", f"{SEARCH} --budget 0%", ("0%",)),
    Bad("budget nan", f"{SEARCH} --budget nan%", ("nan%",)),
    Bad("budget at the dense size", f"{SEARCH} --budget 100%", ("100%", "dense")),
    Bad("budget above the dense size", f"{SEARCH} --budget 900M-params --model {{dir}}/model",
        ("900M-params", "dense"), model_dir(lambda model: None)),
    Bad("budget out of reach", f"{SEARCH} --budget 2%", ("2%", "reach")),
    Bad("budget of another model", f"{SEARCH} --budget 3B-params",
        ("3B-params", "embedded", "--model")),
    Bad("unknown model", f"{SEARCH} --model embeded", ("embeded", "'embedded'")),
    Bad("unknown task", f"{SEARCH} --tasks digits_colr", ("digits_colr", "'digits_colour'")),
    Bad("task whose data is not here", f"{SEARCH} --tasks gqa", ("gqa", "--task-data gqa=DIR")),
    Bad("unknown space", f"{SEARCH} --space hybird", ("hybird", "'hybrid'")),
    Bad("unknown sampler", f"{SEARCH} --sampler nsga", ("nsga", "'nsga2'")),
    Bad("space file that is not there", f"{SEARCH} --space {{dir}}/mine.yaml",
        ("mine.yaml", "does not exist")),
    Bad("space with an unknown key", f"{SEARCH} --space {{dir}}/mine.yaml",
        ("mine", "colour"), space_file(SPACE + "colour: red\n")),
    Bad("space with an unknown knob", f"{SEARCH} --space {{dir}}/mine.yaml",
        ("tempreature", "'temperature'"), space_file(SPACE + "  tempreature: 0.5\n")),
    Bad("space with an unknown key in a range", f"{SEARCH} --space {{dir}}/mine.yaml",
        ("step",), space_file(SPACE + "  temperature: {low: 0, high: 1, step: 2}\n")),
    Bad("space with an empty range", f"{SEARCH} --space {{dir}}/mine.yaml",
        ("temperature", "empty"), space_file(SPACE + "  temperature: {low: 1, high: 0}\n")),
    Bad("space with a wrong type", f"{SEARCH} --space {{dir}}/mine.yaml",
        ("temperature", "warm"), space_file(SPACE + "  temperature: {low: warm, high: 1}\n")),
    Bad("space that is no mapping", f"{SEARCH} --space {{dir}}/mine.yaml",
        ("mine", "mapping"), space_file("- size\n- axis\n")),
    Bad("space that is no YAML", f"{SEARCH} --space {{dir}}/mine.yaml",
        ("mine", "YAML"), space_file("knobs: {size: [\n")),
    Bad("home that cannot be written", "search --home {dir}/taken/home",
        ("taken", "--home"), a_file),
    Bad("name with other settings", f"{SEARCH} --name first --seed 7",
        ("first", "--seed", "--resume first", "--name"), started_search),
    Bad("name that is no directory", f"{SEARCH} --name ../out", ("../out",)),
    Bad("resume of nothing", f"{SEARCH} --resume frist", ("frist", "'first'"), started_search),
    Bad("resume in an empty home", f"{SEARCH} --resume first", ("first", "home")),
    Bad("resume with other settings", f"{SEARCH} --resume first --seed 7",
        ("--seed", "--name"), started_search),
    Bad("resume and name", f"{SEARCH} --resume first --name second",
        ("first", "second", "--name"), started_search),
    Bad("tracking that does not answer", f"{SEARCH} --tracking-uri http://127.0.0.1:9",
        ("http://127.0.0.1:9", "--tracking-uri")),
    Bad("tracking in a directory", f"{SEARCH} --tracking-uri {{dir}}/runs",
        ("runs", "sqlite:///")),
    Bad("tracking of no kind", f"{SEARCH} --tracking-uri sqllite:///x.db",
        ("sqllite", "'sqlite'")),
    Bad("model without weights", f"{SEARCH} --model {{dir}}/model --budget 60%",
        ("model", "weights"), model_dir(no_weights)),
    Bad("model with truncated weights", f"{SEARCH} --model {{dir}}/model --budget 60%",
        ("safetensors",), model_dir(truncated)),
    Bad("model of another architecture", f"{SEARCH} --model {{dir}}/model --budget 60%",
        ("bloom", "llama"), model_dir(other_architecture)),
    Bad("model directory that is not there", f"{SEARCH} --model {{dir}}/model", ("model",)),
    Bad("data fraction 0", f"{SEARCH} --data-fraction 0", ("0", "--data-fraction", "(0, 1]")),
    Bad("data fraction above 1", f"{SEARCH} --data-fraction 1.5", ("1.5", "(0, 1]")),
    Bad("data fraction nan", f"{SEARCH} --data-fraction nan", ("nan", "(0, 1]")),
    Bad("no trials", f"{SEARCH} --trials 0", ("--trials", "0")),
    Bad("negative trials", f"{SEARCH} --trials -3", ("--trials", "-3")),
    Bad("more trials than can be", f"{SEARCH} --trials 99999999999999999999",
        ("--trials", "100,000")),
    Bad("more CPU than there is", f"{SEARCH} --cpus-per-trial 1e99",
        ("--cpus-per-trial", "100,000")),
    Bad("more CPU than this machine has", f"{SEARCH} --cpus-per-trial 9999",
        ("--cpus-per-trial 9999", "cores of this machine")),
    Bad("GPUs for what is only written", "apply first:0 -o {dir}/out --gpus 1",
        ("--gpus 1", "--rebuild")),
    Bad("no task among commas", f"{SEARCH} --tasks ,", ("--tasks ','", "names nothing")),
    Bad("no task to evaluate", "evaluate embedded --tasks ,", ("--tasks ','", "names nothing")),
    Bad("GPUs below 0", "evaluate embedded --gpus -1", ("--gpus -1", "0 or more")),
    Bad("GPUs in words", "apply first:0 -o {dir}/out --gpus one", ("--gpus 'one'", "a number")),
    Bad("samples in words", "evaluate embedded --samples x", ("--samples 'x'", "a whole number")),
    Bad("port in words", "ui --port x", ("--port 'x'", "a whole number")),
    *(Bad(f"{option} in words", f"{SEARCH} {option} some", (f"{option} 'some'", f"is not {what}"))
      for option, what in NUMBERS.items()),
    *(Bad(f"{option} of no value", f"{SEARCH} {option} nan", (option, "nan"))
      for option in NUMBERS),
    *(Bad(f"{option} below 0", f"{SEARCH} {option} -2", (f"{option} -2",))
      for option in NUMBERS),
    *(Bad(f"{option} in parts", f"{SEARCH} {option} 2.5", (f"{option} '2.5'", "is not a whole"))
      for option, what in NUMBERS.items() if what == "a whole number"),
    *(Bad(f"{option} above 1", f"{SEARCH} {option} 2", (f"{option} 2", "1"))
      for option in ("--refine", "--rung-share", "--data-fraction")),
    Bad("no workers", f"{SEARCH} --workers 0", ("--workers", "0")),
    Bad("no time", f"{SEARCH} --max-hours 0", ("--max-hours", "0")),
    Bad("negative seed", f"{SEARCH} --seed -1", ("--seed", "-1")),
    Bad("cache limit without unit", f"{SEARCH} --cache-limit 4", ("--cache-limit", "4GiB")),
    Bad("GPUs that are neither", f"{SEARCH} --gpus-per-trial 1.5", ("--gpus-per-trial", "1.5")),
    Bad("smallest size above the budget", f"{SEARCH} --budget 60% --min-size 70%",
        ("70%", "60%")),
    Bad("smallest size without unit", f"{SEARCH} --min-size 40", ("--min-size", "'40'", "unit")),
    Bad("storage in no directory", f"{SEARCH} --storage sqlite:///{{dir}}/none/study.db",
        ("--storage", "none", "cannot be made")),
    Bad("unknown precision", f"{SEARCH} --quantize none,int44", ("int44", "'int4'")),
    Bad("precision as a flag", f"{SEARCH} --quantize 8", ("'8'", "int8")),
    Bad("objective that misses the bits", f"{SEARCH} --quantize int8 --objective params",
        ("--objective params", "--quantize int8", "bytes")),
    Bad("unknown objective", f"{SEARCH} --objective speed",
        ("--objective 'speed'", "give 'params', 'bytes' or 'memory'")),
    Bad("two sizes as objectives", f"{SEARCH} --objective params,bytes", ("2 sizes", "latency")),
    Bad("latency without a device", f"{SEARCH} --budget 9ms-latency", ("9ms-latency", "--device")),
    Bad("latency as objective without a device", f"{SEARCH} --objective latency",
        ("--objective latency", "--device")),
    Bad("unknown device", f"{SEARCH} --device rtx4090", ("'rtx4090'", "'rtx-4090'")),
    Bad("a machine that was not measured", f"{SEARCH} --device here",
        ("--device here", "here.json", "autoprune profile", "--home")),
    Bad("budgets that exclude each other", f"{SEARCH} --budget 60% --budget 3MiB-memory",
        ("'3MiB-memory' cannot be met", "too much", "at the least")),
    Bad("unknown device to list", "devices jetson-nano", ("'jetson-nano'", "jetson-orin-nano")),
    Bad("bytes out of reach", f"{SEARCH} --budget 1KiB-bytes --quantize int4",
        ("1KiB-bytes", "int4", "reaches 1.5")),
    Bad("bytes out of reach of one precision",
        f"{SEARCH} --budget 1560KiB-bytes --quantize none,int4",
        ("1560KiB-bytes", "--quantize none", "1.55MiB", "leave 'none' out")),
    Bad("bytes that only bits reach", f"{SEARCH} --budget 1570KiB-bytes",
        ("1570KiB-bytes", "1.55MiB", "--quantize int8")),
    Bad("bytes with a scale of nothing", f"{SEARCH} --budget 2Mb-bytes", ("'Mb'", "MiB")),
    Bad("bytes above the dense size", f"{SEARCH} --budget 3GiB-bytes",
        ("3GiB-bytes", "embedded", "7.77MiB")),
    Bad("smallest bytes above the budget",
        f"{SEARCH} --quantize int8 --budget 2MiB-bytes --min-size 3MiB-bytes",
        ("3MiB-bytes", "2MiB-bytes")),
    Bad("smallest bytes out of reach", f"{SEARCH} --quantize int8 --min-size 1MiB-bytes",
        ("1MiB-bytes", "below")),
    Bad("space with nothing to search", f"{SEARCH} --space {{dir}}/mine.yaml",
        ("mine.yaml", "no knob open"), space_file("description: x\nknobs: {}\n")),
    Bad("space with a knob of an option", f"{SEARCH} --space {{dir}}/mine.yaml",
        ("precision", "--quantize"), space_file(SPACE + "  precision: [int8]\n")),
    Bad("unknown option", "search --bugdet 60%", ("--bugdet", "--budget")),
    Bad("unknown command", "serch", ("serch", "search")),
    Bad("dry run of a bad budget", f"{SEARCH} --dry-run --budget 3X", ("3X",)),
    Bad("JSON of a bad budget", f"{SEARCH} --json --budget 3X", ("3X",)),
    Bad("front of nothing", "front frist --home {dir}/home", ("frist", "'first'"), started_search),
    Bad("front without a name", "front", ("NAME",)),
    Bad("apply without a trial", "apply first -o {dir}/out", ("first", "demo:7")),
    Bad("apply of no search", "apply frist:3 -o {dir}/out --home {dir}/home",
        ("frist", "'first'"), started_search),
    Bad("apply of no trial", "apply first:3 -o {dir}/out --home {dir}/home",
        ("first", "3"), started_search),
    Bad("apply of a folder", "apply {dir}/home -o {dir}/out",
        ("home", "NAME:TRIAL"), started_search),
    Bad("apply onto a full directory", "apply first:0 -o {dir}/out --home {dir}/home",
        ("out", "not empty"), full_directory),
    Bad("apply without output", "apply first:3", ("-o",)),
    Bad("pick from nothing", "pick frist --home {dir}/home", ("frist", "'first'"), started_search),
    Bad("pick without a name", "pick", ("SEARCH",)),
    Bad("pick by half a time", "pick first --max-latency 40 --home {dir}/home",
        ("--max-latency", "40ms"), started_search),
    Bad("pick by a share in per cent", "pick first --min-retention 95 --home {dir}/home",
        ("--min-retention 95", "0.95"), started_search),
    Bad("pick twice from one", "pick first first --home {dir}/home",
        ("first", "twice"), started_search),
    Bad("export in no format", "export first:0 --format onx -o {dir}/out --home {dir}/home",
        ("onx", "'onnx'"), started_search),
    Bad("export of graphs to the registry",
        "export first:0 --format onnx --register mine -o {dir}/out --home {dir}/home",
        ("--register mine", "--format hf"), started_search),
    Bad("export to a registry under no name",
        "export first:0 --register a/b -o {dir}/out --home {dir}/home", ("a/b",), started_search),
    Bad("export to a registry without a name",
        "export first:0 --tracking-uri sqlite:///x.db -o {dir}/out --home {dir}/home",
        ("--tracking-uri", "--register NAME"), started_search),
    Bad("export of a folder", "export {dir}/home -o {dir}/out",
        ("home", "NAME:TRIAL"), started_search),
    Bad("export without a trial", "export first -o {dir}/out", ("first", "demo:7")),
    Bad("export onto a full directory", "export first:0 -o {dir}/out --home {dir}/home",
        ("out", "not empty"), full_directory),
    Bad("export where nothing can be written",
        "export first:0 --format onnx -o /proc/out --home {dir}/home", ("/proc/out",),
        full_directory),
    Bad("export of a damaged plan", "export first:0 -o {dir}/new --home {dir}/home",
        ("candidate.json was damaged", "export first:0 --rebuild"), damaged_candidate),
    Bad("export of a checkpoint with a damaged card",
        "export {dir}/cut --format onnx -o {dir}/new",
        ("cut/plan.json cannot be read", "copy the checkpoint again"),
        checkpoint(lambda cut: (cut / "plan.json").write_text("{") and None)),
    Bad("export of a checkpoint whose card is a list",
        "export {dir}/cut --format onnx -o {dir}/new", ("cut/search.json", "no JSON object"),
        checkpoint(lambda cut: (cut / "search.json").write_text("[]") and None)),
    Bad("register of nothing", "register {dir}/none --name mine --home {dir}/home",
        ("none", "autoprune export")),
    Bad("register under no name", "register {dir}/none --name a/b --home {dir}/home", ("a/b",)),
    Bad("evaluate of a trial", "evaluate first:0", ("first:0", "autoprune export first:0 -o DIR")),
    Bad("evaluate of exported graphs", "evaluate {dir}/model", ("model", "another format"),
        model_dir(exported_graphs)),
    Bad("search of an empty name", f"{SEARCH} --name=", ("--name ''", "leave --name out")),
    Bad("profile where nothing can be written", "profile --home /proc/x",
        ("/proc/x", "cannot be written")),
    Bad("space of no name", "spaces hybird", ("hybird", "'hybrid'")),
    Bad("YAML of no space", "spaces --yaml", ("--yaml", "spaces NAME")),
    Bad("YAML of no name", "spaces hybird --yaml", ("hybird", "'hybrid'")),
    Bad("ui of no search", "ui frist --home {dir}/home", ("frist", "'first'"), started_search),
    Bad("evaluate of no model", "evaluate embeded", ("embeded", "'embedded'")),
    Bad("evaluate of no task", "evaluate embedded --tasks digits_colr",
        ("digits_colr", "'digits_colour'")),
    Bad("evaluate on the report split", "evaluate embedded --split report",
        ("report", "confirm")),
    Bad("images of no data to evaluate", "evaluate embedded --images {dir}",
        ("--images", "name some --data")),
    Bad("data that is not there to evaluate", "evaluate embedded --data {dir}/mine.json",
        ("mine.json",)),
]  # fmt: skip


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return every path below a folder with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("bad", TABLE, ids=[bad.what for bad in TABLE])
def test_bad_input_is_one_line(
    bad: Bad, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad.prepare(tmp_path)
    before = tree(tmp_path)
    capfd.readouterr()

    code = run([word.format(dir=tmp_path) for word in bad.arguments.split()])

    said = capfd.readouterr()
    assert code == 2, said.err
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1, said.err
    for word in bad.says:
        assert word in said.err
    assert tree(tmp_path) == before, "something was started or lost"
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized()


def test_gpus_that_are_not_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(["search", "--home", str(tmp_path / "home"), "--gpus-per-trial", "1"]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "gpus" in said
    assert tree(tmp_path) == {}


def test_bad_values_are_refused_before_heavy_imports() -> None:
    code = (
        "import sys; from autoprune.cli.main import run;"
        "codes = [run(f'search {bad}'.split()) for bad in"
        " ('--trials 0', '--sampler tpee', '--space hybird', '--data-fraction 2')];"
        "print(codes, [m for m in ('torch', 'ray', 'mlflow', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[2, 2, 2, 2] []"


def test_no_write_permission(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() == 0:
        home = Path("/proc/autoprune")  # nobody can create this one
    else:
        home = tmp_path / "closed"
        home.mkdir(mode=0o500)
    assert run(["search", "--home", str(home)]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert str(home) in said
    assert "--home" in said
