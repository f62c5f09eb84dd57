"""The files that the page on data and tasks shows are read, and its commands run."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import pytest
from support.user_data import llava, png
from support.yaml_tasks import write_tasks

from autoprune.data.sources.scan import open_sources
from autoprune.data.sources.spec import parse_source
from autoprune.data.splits import DataSpec
from autoprune.evaluation.external import tried
from autoprune.evaluation.fields import check_own
from autoprune.evaluation.tasks import ANSWER_TOKENS, resolve_tasks

from .shell import ROOT, commands, run

PAGE = "docs/own-data.md"


def block(kind: str) -> str:
    found = re.search(rf"```{kind}\n(.*?)```", (ROOT / PAGE).read_text(), re.S)
    assert found is not None
    return found.group(1)


def task(folder: Path) -> Path:
    """Write the page's task beside documents of the columns that it names."""
    read, _ = write_tasks(folder)
    shutil.move(read.with_suffix(".parquet"), folder / "my_task.parquet")
    path = folder / "my_task.yaml"
    path.write_text(block("yaml"))
    return path


def test_the_rows_are_read(tmp_path: Path) -> None:
    rows = json.loads(block("json"))
    (tmp_path / "images" / "street").mkdir(parents=True)
    for number, name in enumerate(("street/1.jpg", "2.jpg", "3.jpg")):
        (tmp_path / "images" / name).write_bytes(png(number))
    path = tmp_path / "my_data.json"
    path.write_text(json.dumps(rows))
    data = DataSpec(sources=(parse_source(str(path)),), images=str(tmp_path / "images"))
    (source,) = open_sources(data)
    source.look_through()
    samples = [source.sample(row) for row in range(3)]
    assert [len(sample.images) for sample in samples] == [1, 2, 0]
    assert [len(sample.turns) for sample in samples] == [2, 1, 1]
    assert samples[0].turns[0].answer == "Red."


def test_the_task_is_asked(tmp_path: Path) -> None:
    (spec,) = resolve_tasks([str(task(tmp_path))])
    spec = tried(spec)
    assert (spec.name, spec.chance, spec.capabilities) == ("my_task", 0.1, ("reading",))


def test_the_table_of_keys_is_whole() -> None:
    keys = re.findall(r"^\| `(\w+)` \|", (ROOT / PAGE).read_text(), re.M)
    said = {"chance": 0.5, "capability": "x", "metric": "acc", "maximum": 1, "max_new_tokens": 1}
    assert set(keys) == set(check_own(said, Path("own.yaml")))
    assert f"| {ANSWER_TOKENS} |" in (ROOT / PAGE).read_text()


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Image, Value

    llava(tmp_path, name="my_data.json")
    task(tmp_path)
    features = Features({"photo": Image(), "prompt": Value("string"), "label": Value("string")})
    table = [
        {"photo": {"bytes": png(i), "path": None}, "prompt": "what digit ?", "label": str(i % 10)}
        for i in range(60)
    ]
    stream = io.BytesIO()
    Dataset.from_list(table, features=features).to_parquet(stream)
    (tmp_path / "my_table.parquet").write_bytes(stream.getvalue())
    for command in commands(PAGE):
        run(command, tmp_path, {})
