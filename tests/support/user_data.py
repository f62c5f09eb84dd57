"""A user's data in every form that is read, of small pictures that differ."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autoprune.zoo import load_split

SIDE = 40


def picture(seed: int, side: int = SIDE) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(seed: int, side: int = SIDE) -> bytes:
    stream = io.BytesIO()
    picture(seed, side).save(stream, "png")
    return stream.getvalue()


def said(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [
        {"from": who, "value": text}
        for question, answer in pairs
        for who, text in (("human", question), ("gpt", answer))
    ]


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    """One image, several turns; every tenth row has two images, every other tenth none."""
    made: list[dict[str, Any]] = []
    for number in range(first, first + count):
        answers = [("red", "3"), ("blue", "7"), ("green", "yes")][number % 3]
        row: dict[str, Any] = {"id": f"r{number}", "image": f"{number}.png"}
        talk = [("<image>\nwhat colour is the left digit ?", answers[0])]
        if number % 2:
            talk.append(("and how many ?", answers[1]))
        if number % 10 == 3:
            row["image"] = [f"{number}.png", f"{number + 1000}.png"]
            talk = [("<image>\n<image>\nwhat is the digit ?", answers[1])]
        if number % 10 == 6:
            del row["image"]
            talk = [(f"is {number} on the left ?", answers[0])]
        made.append({**row, "conversations": said(*talk)})
    return made


def pictures_of(data: list[dict[str, Any]], folder: Path) -> None:
    """Write the pictures that rows name; each is drawn by the number that it is called."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in data:
        names = row.get("image", [])
        for name in [names] if isinstance(names, str) else names:
            (folder / name).write_bytes(png(int(Path(name).stem)))


def write_json(data: list[dict[str, Any]], path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, **options), encoding="utf-8")
    return path


def llava(folder: Path, count: int = 60, name: str = "mine.json") -> Path:
    """Write a LLaVA data set: a JSON list and its pictures."""
    data = rows(count)
    pictures_of(data, folder / "images")
    return write_json(data, folder / name)


def digits(folder: Path, count: int = 120) -> Path:
    """Write rows about the embedded data's images: one to three turns, each answered rightly."""
    (folder / "images").mkdir(parents=True)
    data = []
    for number, sample in enumerate(load_split("train", count)):
        assert sample.image is not None
        sample.image.save(folder / "images" / f"{number}.png")
        talk = said(*((turn.question, turn.answer) for turn in sample.turns[: 1 + number % 3]))
        data.append({"id": str(number), "image": f"{number}.png", "conversations": talk})
    return write_json(data, folder / "digits.json")
