"""The same rows in every form that a user brings them in are the same samples."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.families import CASES
from support.user_data import SIDE, llava, pictures_of, png, rows, said, write_json

from autoprune.data.lengths import measure
from autoprune.data.samples import Sample, SampleSet
from autoprune.data.sources import text as text_module
from autoprune.data.sources.text import TextFile
from autoprune.data.sources.user import first_question, open_data, read_data
from autoprune.errors import AutoPruneError

ROWS = rows(40)


def lines(folder: Path) -> tuple[str, list[str]]:
    path = folder / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n")
    return str(path), []


def indented(folder: Path) -> tuple[str, list[str]]:
    return str(write_json(ROWS, folder / "mine.json", indent=2)), []


def folder_of_one(folder: Path) -> tuple[str, list[str]]:
    write_json(ROWS, folder / "images" / "mine.json")
    return str(folder / "images"), []


def roles(folder: Path) -> tuple[str, list[str]]:
    """As chat templates have it."""
    names = {"human": "user", "gpt": "assistant"}
    data = []
    for row in ROWS:
        talk = [{"role": names[m["from"]], "content": m["value"]} for m in row["conversations"]]
        data.append({**row, "conversations": None, "chat": talk})
        del data[-1]["conversations"]
    return str(write_json(data, folder / "mine.json")), ["conversations=chat"]


def _listed(row: dict[str, Any]) -> list[dict[str, Any]]:
    names = row.get("image", [])
    names = [names] if isinstance(names, str) else names
    return [{"bytes": png(int(Path(name).stem)), "path": None} for name in names]


def _data_set(bytes_inside: bool) -> Any:
    from datasets import Dataset, Features, Image, List, Value

    talk = List({"from": Value("string"), "value": Value("string")})
    features = Features({"id": Value("string"), "pics": List(Image()), "conversations": talk})
    data = [
        {"id": row["id"], "pics": _listed(row), "conversations": row["conversations"]}
        for row in ROWS
    ]
    return Dataset.from_list(data, features=features)


def saved(folder: Path) -> tuple[str, list[str]]:
    _data_set(True).save_to_disk(folder / "mine")
    return str(folder / "mine"), ["image=pics"]


def split_of_several(folder: Path) -> tuple[str, list[str]]:
    from datasets import DatasetDict

    data = _data_set(True)
    DatasetDict({"test": data.select([0]), "train": data}).save_to_disk(folder / "mine")
    return str(folder / "mine"), ["image=pics"]


def parquet(folder: Path) -> tuple[str, list[str]]:
    _data_set(True).to_parquet(folder / "mine.parquet")
    return str(folder / "mine.parquet"), ["image=pics"]


def parquet_by_type(folder: Path) -> tuple[str, list[str]]:
    """A column of images is found by its type, whatever it is called."""
    return parquet(folder)[0], []


def parquet_folder(folder: Path) -> tuple[str, list[str]]:
    data = _data_set(True)
    (folder / "mine").mkdir()
    data.select(range(20)).to_parquet(folder / "mine" / "0.parquet")
    data.select(range(20, 40)).to_parquet(folder / "mine" / "1.parquet")
    return str(folder / "mine"), ["image=pics"]


SYSTEM = "Answer in one word."


def with_system(data: list[dict[str, Any]], text: Any = SYSTEM, role: str = "from") -> Any:
    """Put a system message before every second conversation."""
    value = {"from": "value", "role": "content"}[role]
    return [
        {**row, "conversations": [{role: "system", value: text}, *row["conversations"]]}
        if number % 2
        else row
        for number, row in enumerate(data)
    ]


# what stands first in every second conversation, and what is read of it
SYSTEMS: list[tuple[str, Any, str]] = [
    ("from", SYSTEM, SYSTEM),
    ("role", f" {SYSTEM}\n", SYSTEM),
    ("role", [{"type": "text", "text": SYSTEM}], SYSTEM),
    ("from", "", ""),
    ("from", None, ""),
]


@pytest.mark.parametrize(("role", "text", "read"), SYSTEMS)
def test_a_conversation_may_begin_with_a_system_message(
    role: str, text: Any, read: str, tmp_path: Path
) -> None:
    pictures_of(ROWS, tmp_path / "images")
    plain = write_json(ROWS, tmp_path / "plain.json")
    path = write_json(with_system(ROWS, text, role), tmp_path / "mine.json")
    bare, data = (read_data([str(p)], tmp_path / "images") for p in (plain, path))
    # What a system message says is part of what the data holds; an empty one says nothing.
    assert (data.identity == bare.identity) == (not read)
    (source,), (other,) = open_data(data).sources, open_data(bare).sources
    assert source.index.system.tolist() == [bool(read) and n % 2 == 1 for n in range(len(ROWS))]
    for row in range(len(ROWS)):
        found = source.sample(row)
        assert found.system == (read if row % 2 else "")
        assert content(found)[1:] == content(other.sample(row))[1:]
        assert [t.question for t in found.turns] == [t.question for t in other.sample(row).turns]
        asked, alone = first_question(found), first_question(other.sample(row))
        assert asked.system == ""
        before = f"{read}\n\n" if found.system else ""
        assert asked.turns[0].question == before + alone.turns[0].question


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda talk: [*talk, {"from": "system", "value": "x"}], "row 2 .* does not go human, gpt"),
        (lambda talk: [talk[0], {"from": "system", "value": "x"}, *talk[1:]], "only stand first"),
        (lambda talk: [{"from": "system", "value": "x"}] * 2 + talk, "does not go human, gpt"),
        (lambda talk: [{"from": "system", "value": "x"}], "row 2 .* has no conversations"),
        (lambda talk: [{"from": "system", "value": "<image> x"}, *talk], "number of <image> marks"),
    ],
)
def test_a_system_message_that_is_out_of_place(change: Any, line: str, tmp_path: Path) -> None:
    data = [dict(row) for row in ROWS]
    data[1]["conversations"] = change(data[1]["conversations"])
    pictures_of(ROWS, tmp_path / "images")
    path = write_json(data, tmp_path / "mine.json")
    with pytest.raises(AutoPruneError, match=line):
        read_data([str(path)], tmp_path / "images")


def test_a_model_without_a_place_for_it_names_the_row(tmp_path: Path) -> None:
    """Before anything is trained, wherever in the data the message stands."""
    data = rows(80)
    data[70] = with_system([data[0], data[70]])[1]
    pictures_of(data, tmp_path / "images")
    path = write_json(data, tmp_path / "mine.json")
    splits = open_data(read_data([str(path)], tmp_path / "images"))
    case = CASES["llava-llama"]
    processor = case.processor()
    line = r"chat template of LlavaProcessor has no place for .* of row 71 \(id 'r70'\) of .*mine"
    with pytest.raises(AutoPruneError, match=line):  # it knows two roles
        measure(splits, case.config(), processor, 500, rows=4)
    processor.chat_template = processor.chat_template.replace(
        "else ' assistant: '", "else 'how ' if message['role'] == 'system' else ' assistant: '"
    )
    assert measure(splits, case.config(), processor, 500, rows=4).longest == 500


def content(sample: Sample) -> Any:
    shown = [np.asarray(image).tobytes() for image in sample.images]
    return [(t.question, t.answer, t.marks) for t in sample.turns], shown, sample.together


@pytest.mark.parametrize(
    "form",
    [
        lines,
        indented,
        folder_of_one,
        roles,
        saved,
        split_of_several,
        parquet,
        parquet_by_type,
        parquet_folder,
    ],
)
def test_every_form_gives_the_same_samples(
    form: Callable[[Path], tuple[str, list[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    pictures_of(ROWS, tmp_path / "images")
    plain = write_json(ROWS, tmp_path / "plain" / "mine.json")
    wanted = open_data(read_data([str(plain)], tmp_path / "images"))
    ref, columns = form(tmp_path)
    found = open_data(read_data([ref], tmp_path / "images", columns))
    assert found.identity == wanted.identity
    assert found.name == wanted.name.replace("mine", found.name)
    for split in wanted.places:
        assert found.places[split].tolist() == wanted.places[split].tolist()
        one, two = found.open(split), wanted.open(split)
        assert isinstance(one, SampleSet)
        assert [content(sample) for sample in one] == [content(sample) for sample in two]
        assert one.ring.tolist() == two.ring.tolist()
    again = pickle.loads(pickle.dumps(found.open("train")))
    assert content(again[3]) == content(wanted.open("train")[3])


def test_a_column_mapping_reads_questions_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset, Features, Image, Value

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    features = Features(
        {"img": Image(), "prompt": Value("string"), "label": Value("string"), "n": Value("int64")}
    )
    data = [
        {"img": {"bytes": png(i), "path": None}, "prompt": f"how many {i} ?", "label": "3", "n": i}
        for i in range(30)
    ]
    Dataset.from_list(data, features=features).to_parquet(tmp_path / "b.parquet")
    columns = ["image=img,question=prompt", "answer=label"]
    splits = open_data(read_data([str(tmp_path / "b.parquet")], columns=columns))
    sample = splits.open("train")[0]
    assert sample.turns[0].question.startswith("how many")
    assert sample.turns[0].answer == "3"
    assert sample.turns[0].marks == (0,)
    assert sample.image is not None
    assert sample.image.size == (SIDE, SIDE)


@pytest.mark.parametrize("key", ["image", "images", "photo"])
def test_images_are_read_where_the_first_rows_are_text(key: str, tmp_path: Path) -> None:
    data: list[dict[str, Any]] = [{"conversations": said((f"what {i} ?", "3"))} for i in range(3)]
    for row in rows(30):
        names = row.pop("image", None)
        data.append({**row, key: names} if names else row)
    pictures_of(rows(30), tmp_path)
    columns = ["image=photo"] if key == "photo" else []
    splits = open_data(read_data([str(write_json(data, tmp_path / "a.json"))], columns=columns))
    shown = sum(len(sample.images) for split in splits.places for sample in splits.open(split))
    assert shown == 30


MARKS = [
    ("<image>\nwhat ?", 1, "what ?", (0,)),
    ("what ?\n<image>", 1, "what ?", (6,)),
    ("what ?", 1, "what ?", (0,)),
    ("is <image> like <image> ?", 2, "is  like  ?", (3, 9)),
    ("<image><image>\nboth", 2, "both", (0, 0)),
    ("<image>", 1, "", (0,)),
    ("no image", 0, "no image", ()),
]


@pytest.mark.parametrize(("value", "images", "question", "marks"), MARKS)
def test_images_stand_where_their_marks_are(
    value: str, images: int, question: str, marks: tuple[int, ...]
) -> None:
    from autoprune.data.sources.rows import Fields, turns_of

    fields = Fields("id", "image", None, None, "conversations")
    row = {"conversations": said((value, "yes"), ("and ?", "no"))}
    first, second = turns_of(row, fields, images, "mine")
    assert (first.question, first.marks) == (question, marks)
    assert second.marks == ()


def test_rows_are_found_wherever_they_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Across the borders of what is read at once, with text beyond ASCII, and brackets in it."""
    monkeypatch.setattr(text_module, "_WINDOW", 37)
    data = [
        {"id": "é", "t": 'a "quoted" ] } [ {', "n": [1, [2, {"x": "ü\u20ac😀"}]]},
        {"id": "\\", "t": "x" * 200},
        {},
        {"id": 3, "t": "\u2028 , ,"},
    ]
    for text in (
        json.dumps(data),
        json.dumps(data, ensure_ascii=False, indent=3),
        "\ufeff  " + json.dumps(data, ensure_ascii=False) + "\n\n",
        "\n".join(json.dumps(row, ensure_ascii=False) for row in data).replace("\u2028", " "),
    ):
        path = tmp_path / "x.jsonl"
        path.write_text(text, encoding="utf-8")
        wanted = json.loads(json.dumps(data).replace("\\u2028", " ")) if text[0] == "{" else data
        file = TextFile(path)
        assert list(file.scan()) == wanted
        assert [file.row(i) for i in range(len(file))] == wanted


BROKEN = [
    ('{"a": 1}', "is a JSON object, not a list"),
    ('"a"', "is no JSON list"),
    ("", "is no JSON list"),
    ("[]", "holds no rows"),
    ('[{"a": 1}, {"b": ', "breaks off behind row 1"),
    ('[{"a": 1} {"b": 2}]', "a comma is missing"),
    ('[{"a": 1}] x', "text behind the list"),
    ('[{"a": 1}', "the file ends before the list does"),
]


@pytest.mark.parametrize(("text", "says"), BROKEN)
def test_what_is_no_json_list_is_said(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(AutoPruneError, match=says):
        list(TextFile(path).scan())


def test_identity_is_content(tmp_path: Path) -> None:
    path = llava(tmp_path)
    first = read_data([str(path)], tmp_path / "images")
    for file in (path, tmp_path / "images" / "0.png"):
        os.utime(file, (time.time() + 50, time.time() + 50))
    assert read_data([str(path)], tmp_path / "images").identity == first.identity
    (tmp_path / "images" / "0.png").write_bytes(png(77))
    os.utime(path, (1, 1))
    changed = read_data([str(path)], tmp_path / "images")
    assert changed.identity != first.identity
    with pytest.raises(AutoPruneError, match="holds something else"):
        open_data(first)
    (tmp_path / "images" / "0.png").write_bytes(png(0))
    data = json.loads(path.read_text())
    data[0]["conversations"][1]["value"] = "9"
    write_json(data, path)
    assert read_data([str(path)], tmp_path / "images").identity not in (
        first.identity,
        changed.identity,
    )
    assert read_data([f"{path}=2"], tmp_path / "images").identity != first.identity
