"""Data that cannot be used: one line, exit 2, before anything is started or written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.user_data import llava, said, write_json

from autoprune.cli.main import run

SEARCH = "search --home {dir}/home"
MINE = "--data {dir}/mine.json --images {dir}/images"


class Bad(NamedTuple):
    what: str
    arguments: str
    says: tuple[str, ...]
    change: Callable[[Path], None] = lambda folder: None


def edited(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    """Change the rows; what a change returns takes their place."""

    def apply(folder: Path) -> None:
        path = folder / "mine.json"
        data = json.loads(path.read_text())
        path.write_text(json.dumps(change(data) or data))

    return apply


def row(number: int, **values: Any) -> Callable[[Path], None]:
    return edited(lambda data: data[number].update(values))


def no_conversations(data: list[dict[str, Any]]) -> None:
    for number in (4, 5, 6, 7):
        data[number]["conversations"] = []


def missing(folder: Path) -> None:
    for number in (1, 4, 8, 15):
        (folder / "images" / f"{number}.png").unlink()


def unreadable(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.write_bytes(b"no picture " + path.name.encode())


def long_answers(folder: Path) -> None:
    edited(
        lambda data: [
            {**one, "conversations": said(("how many ?", f"there are many of them, {i} at least"))}
            for i, one in enumerate(data)
        ]
    )(folder)
    edited(lambda data: [{k: v for k, v in one.items() if k != "image"} for one in data])(folder)


def one_short(folder: Path) -> None:
    """All rows but a few of the training split are long."""
    from autoprune.data.sources.user import open_data, read_data

    splits = open_data(read_data([str(folder / "mine.json")], folder / "images"))
    short = set(splits.rows[splits.places["train"][:9]].tolist())
    long = said(("what ? " * 30, "3"))
    edited(
        lambda data: [
            {**one, "conversations": said((f"{i} ?", "3")) if i in short else long}
            for i, one in enumerate(data)
        ]
    )(folder)


def parquet(folder: Path) -> None:
    from datasets import Dataset

    Dataset.from_dict({"prompt": ["a"] * 9, "label": ["b"] * 9}).to_parquet(folder / "x.parquet")


def two_pictures(folder: Path) -> None:
    from datasets import Dataset, Features, Image, Value

    features = Features(
        {"left": Image(), "right": Image(), "question": Value("string"), "answer": Value("string")}
    )
    row = {"left": None, "right": None, "question": "a", "answer": "b"}
    Dataset.from_list([row] * 9, features=features).to_parquet(folder / "x.parquet")


TABLE = [
    Bad("file that is not there", f"{SEARCH} --data {{dir}}/none.json", ("none.json", "exist")),
    Bad("hub name that cannot be had", f"{SEARCH} --data nobody/nothing",
        ("nobody/nothing", "cannot be loaded")),
    Bad("file of no known kind", f"{SEARCH} --data {{dir}}/images/0.png", ("0.png", ".jsonl")),
    Bad("folder of nothing", f"{SEARCH} --data {{dir}}/images", ("images", "name one file")),
    Bad("JSON that is no list", f"{SEARCH} {MINE}", ("mine.json", "not a list"),
        lambda folder: (folder / "mine.json").write_text('{"a": 1}') and None),
    Bad("JSON that is cut off", f"{SEARCH} {MINE}", ("mine.json", "breaks off behind row"),
        lambda folder: (folder / "mine.json").write_text(
            (folder / "mine.json").read_text()[:3000]) and None),
    Bad("rows without conversations", f"{SEARCH} {MINE}",
        ("4 rows", "row 5 (id 'r4')", "r5", "r6", "…", "have no conversations"),
        edited(no_conversations)),
    Bad("row that is no object", f"{SEARCH} {MINE}", ("row 61", "is no object"),
        edited(lambda data: [*data, 3])),
    Bad("row with an empty answer", f"{SEARCH} {MINE}", ("row 3 (id 'r2')", "empty answer"),
        row(2, conversations=said(("what ?", " ")))),
    Bad("row that says nothing", f"{SEARCH} {MINE}", ("row 7 (id 'r6')", "says nothing"),
        row(6, conversations=said(("", "yes")))),
    Bad("row that ends with a question", f"{SEARCH} {MINE}", ("row 1", "human, gpt"),
        row(0, conversations=[*said(("a", "b")), {"from": "human", "value": "c"}])),
    Bad("row with a mark too many", f"{SEARCH} {MINE}", ("row 1", "<image> marks"),
        row(0, conversations=said(("<image><image> what ?", "3")))),
    Bad("rows whose images go by another name", f"{SEARCH} {MINE}",
        ("rows", "no column of images is known", "--columns image=picture"),
        edited(lambda data: [{"img" if k == "image" else k: v for k, v in row.items()}
                             for row in data])),
    Bad("data set with several columns of images", f"{SEARCH} --data {{dir}}/x.parquet",
        ("(left, right)", "--columns image=left"), two_pictures),
    Bad("column of images as a question",
        f"{SEARCH} --data {{dir}}/x.parquet --columns question=left",
        ("question=left", "holds images"), two_pictures),
    Bad("missing images", f"{SEARCH} {MINE}",
        ("4 images of", "1.png", "4.png", "8.png", "--images"), missing),
    Bad("images that are elsewhere", f"{SEARCH} --data {{dir}}/mine.json",
        ("images of", "0.png", "--images")),
    Bad("images' folder that is not there", f"{SEARCH} {MINE}x", ("imagesx", "no directory")),
    Bad("image that does not decode", f"{SEARCH} {MINE}",
        (".png", "does not decode", "id 'r"), unreadable),
    Bad("column that is not there", f"{SEARCH} {MINE} --columns image=imge",
        ("image=imge", "'image'")),
    Bad("column of nothing that is read", f"{SEARCH} {MINE} --columns picture=image",
        ("picture", "image, question")),
    Bad("columns that are no pairs", f"{SEARCH} {MINE} --columns image",
        ("'image'", "NAME=COLUMN")),
    Bad("columns twice", f"{SEARCH} {MINE} --columns image=image --columns image=id",
        ("twice",)),
    Bad("data set without known columns", f"{SEARCH} --data {{dir}}/x.parquet",
        ("x.parquet", "prompt, label", "--columns question=prompt"), parquet),
    Bad("weight of nothing", f"{SEARCH} --data {{dir}}/mine.json=0 --images {{dir}}/images",
        ("mine.json=0", "above 0")),
    Bad("weight that is no number", f"{SEARCH} --data {{dir}}/mine.json=much",
        ("'much'", "=2")),
    Bad("length that nothing fits", f"{SEARCH} {MINE} --max-length 9",
        ("9 tokens", "--max-length")),
    Bad("answers that are long", f"{SEARCH} {MINE}", ("5 words", "--tasks"), long_answers),
    Bad("length that nothing to measure on fits", f"{SEARCH} {MINE} --max-length 18",
        ("no sample of mine/calibration", "18 tokens", "--max-length"), one_short),
    Bad("length beyond the model's", f"{SEARCH} {MINE} --max-length 9999",
        ("--max-length 9999", "512")),
    Bad("parquet that is none", f"{SEARCH} --data {{dir}}/x.parquet",
        ("x.parquet", "cannot be loaded"),
        lambda folder: (folder / "x.parquet").write_bytes(b"PAR1") and None),
    Bad("few rows", f"{SEARCH} {MINE}", ("mine.json", "4 rows", "too few"),
        edited(lambda data: data[:4])),
    Bad("images without data", f"{SEARCH} --images {{dir}}/images", ("--images", "--data")),
    Bad("length without data", f"{SEARCH} --max-length 9", ("--max-length", "--data")),
    Bad("length of nothing", f"{SEARCH} {MINE} --max-length 0", ("--max-length 0",)),
    Bad("dry run of missing images", f"{SEARCH} {MINE} --dry-run", ("4 images",), missing),
    Bad("a look at nothing", "data {dir}/none.json", ("none.json", "exist")),
    Bad("a look at missing images", "data {dir}/mine.json --images {dir}/images --json",
        ("4 images",), missing),
    Bad("a look by no model", "data {dir}/mine.json --images {dir}/images --model embeded",
        ("embeded", "'embedded'")),
    Bad("a look without data", "data", ("PATH",)),
]  # fmt: skip


@pytest.mark.parametrize("bad", TABLE, ids=[bad.what for bad in TABLE])
def test_bad_data_is_one_line(
    bad: Bad, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "elsewhere")
    llava(tmp_path)
    bad.change(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    capfd.readouterr()

    code = run([word.format(dir=tmp_path) for word in bad.arguments.split()])

    spoken = capfd.readouterr()
    assert code == 2, spoken.err
    assert spoken.out == ""
    assert spoken.err.startswith("error: ")
    assert spoken.err.count("\n") == 1, spoken.err
    for word in bad.says:
        assert word in spoken.err
    here = [p for p in sorted(tmp_path.rglob("*")) if tmp_path / "elsewhere" not in (p, *p.parents)]
    assert here == before


def test_what_is_left_out_is_said_before_a_search_starts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = llava(tmp_path)
    command = ["search", "--home", str(tmp_path / "home"), "--data", str(path), "--dry-run"]
    command += ["--images", str(tmp_path / "images"), "--max-length", "26", "--json"]
    assert run(command) == 0
    notes = json.loads(capfd.readouterr().out)["space"]["notes"]
    too_long, few = (
        next(note for note in notes if note.startswith(f"{what}: "))
        for what in ("too long", "few questions")
    )
    assert "longer than 26 tokens" in too_long
    assert "left out" in too_long
    assert "6 to confirm" in few


def test_a_look_says_what_is_trained_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = llava(tmp_path)
    more = write_json(json.loads(path.read_text())[:30], tmp_path / "images" / "more.json")
    command = ["data", str(path), f"{more}=2", "--images", str(tmp_path / "images")]
    assert run([*command, "--max-length", "24", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    first, second = found["sources"]
    assert (first["rows"], first["used"], second["rows"], second["used"]) == (60, 15, 30, 30)
    assert second["images"] == 30 - 3 + 3
    assert first["images"] <= 15 + first["several_images"]
    assert second["text_only"] == second["several_images"] == 3
    assert sum(found["splits"].values()) == 45
    lengths = found["lengths"]
    assert lengths["measured"] == 45
    assert lengths["shortest"] <= lengths["median"] <= lengths["longest"]
    assert lengths["cut"] + lengths["left_out"] > 0
    assert "longer than 24 tokens" in found["too_long"]
    assert found["tasks"] == ["data_mine", "data_more"]
    for sample in found["samples"]:
        trained = "".join(piece["text"] for piece in sample["text"] if piece["trained"])
        assert trained.count("</s>") == sum(piece["trained"] for piece in sample["text"])
        assert "ASSISTANT" not in trained
        assert ("<image>×9" in str(sample["text"])) is bool(sample["images"])
    assert run(command) == 0
    text = capfd.readouterr().out
    assert "left out: nothing" in text
    assert "held-out rows can be asked by exact match: data_mine, data_more" in text
