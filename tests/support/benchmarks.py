"""Made documents of known benchmarks: drawn pictures, and the columns that their tasks read."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

IMAGES = 12
"""Pictures of each benchmark."""


def picture(number: int) -> Image.Image:
    """Draw a picture that no other number gives."""
    image = Image.new("RGB", (32, 32), (number * 7 % 256, number * 31 % 256, 90))
    ImageDraw.Draw(image).text((4, 8), str(number), fill=(255, 255, 255))
    return image


def encoded(number: int) -> dict[str, Any]:
    """The same as a data set stores it."""
    stream = io.BytesIO()
    picture(number).save(stream, "png")
    return {"bytes": stream.getvalue(), "path": None}


@dataclass(frozen=True)
class Made:
    """A benchmark's made documents.

    Attributes:
        docs: rows.
        right, wrong: what to answer to a document so that it scores, or does not.
        score: of which documents are right -> the score, 0..1, by hand.
        lists: whether the image column holds a list.
        mean: whether the score is a mean over documents.
    """

    docs: list[dict[str, Any]]
    right: Callable[[dict[str, Any]], str]
    wrong: Callable[[dict[str, Any]], str]
    score: Callable[[list[dict[str, Any]], list[bool]], float]
    lists: bool = False
    mean: bool = True


def share(docs: list[dict[str, Any]], right: list[bool]) -> float:
    return float(np.mean(right))


def _other(letter: str) -> str:
    return "B" if letter == "A" else "A"


def _pope() -> Made:
    kinds = ("adversarial", "popular", "random")
    docs = [
        {
            "id": str(row),
            "question_id": str(row),
            "question": f"Is there a {row} in the image?",
            "answer": ("yes", "no")[row % 2],
            "category": kinds[row % 3],
            "image_source": f"picture_{row // 3}",
            "image": encoded(row // 3),
        }
        for row in range(3 * IMAGES)
    ]
    # A full stop counts as wrong.
    wrong = {"yes": "no", "no": "No."}
    return Made(docs, lambda d: d["answer"].title(), lambda d: wrong[d["answer"]], share)


def _gqa() -> Made:
    words = ("red", "blue", "cat", "dog")
    docs = [
        {
            "id": str(row),
            "imageId": str(row // 2),
            "question": f"What is number {row}?",
            "answer": words[row % 4],
            "image": encoded(row // 2),
        }
        for row in range(2 * IMAGES)
    ]
    return Made(docs, lambda d: d["answer"].upper() + ".", lambda d: "a house", share)


def _scienceqa() -> Made:
    docs = [
        {
            "question": f"Which is {row}?",
            "choices": ["this", "that", "neither"],
            "answer": row % 3,
            "hint": "Look closely." if row % 2 else "",
            "subject": ("natural science", "social science")[row % 2],
            "image": encoded(row),
        }
        for row in range(2 * IMAGES)
    ]
    return Made(docs, lambda d: "ABC"[d["answer"]], lambda d: "D", share)


def _mme() -> Made:
    kinds = ("existence", "OCR", "code_reasoning")
    docs = [
        {
            "question_id": f"{kinds[row // 2 % 3]}/{row // 2}.png",
            "image": encoded(row // 2),
            "question": f"Is it {row}? Please answer yes or no.",
            "answer": ("Yes", "No")[row % 2],
            "category": kinds[row // 2 % 3],
        }
        for row in range(2 * 2 * IMAGES)
    ]

    def score(asked: list[dict[str, Any]], right: list[bool]) -> float:
        # Of each category: accuracy, and accuracy over pairs of questions; 200 points at best.
        points = []
        for kind in sorted({doc["category"] for doc in asked}):
            pairs: dict[str, list[bool]] = {}
            for doc, good in zip(asked, right, strict=True):
                if doc["category"] == kind:
                    pairs.setdefault(doc["question_id"], []).append(good)
            single = np.mean([good for pair in pairs.values() for good in pair])
            double = np.mean([all(pair) for pair in pairs.values()])
            points.append(100 * single + 100 * double)
        return float(sum(points) / (200 * len(points)))

    wrong = {"Yes": "No", "No": "Yes"}
    return Made(docs, lambda d: d["answer"], lambda d: wrong[d["answer"]], score, mean=False)


def _mmbench() -> Made:
    docs = [
        {
            "index": row,
            "question": f"Which shows {row}?",
            "hint": "nan",
            "answer": "ABCD"[row % 4],
            "A": "an apple",
            "B": "a boat",
            "C": "a cow",
            "D": "a door",
            "category": ("ocr", "color")[row % 2],
            "L2-category": "perception",
            "source": "made",
            "split": "dev",
            "image": encoded(row),
        }
        for row in range(2 * IMAGES)
    ]
    return Made(docs, lambda d: d["answer"], lambda d: _other(d["answer"]), share)


def _textvqa() -> Made:
    docs = [
        {
            "image_id": str(row // 2),
            "question_id": row,
            "question": f"what does sign {row} say?",
            "answers": [f"stop {row}"] * 10,
            "answer": f"stop {row}",
            "ocr_tokens": ["stop"],
            "image": encoded(row // 2),
        }
        for row in range(2 * IMAGES)
    ]
    return Made(docs, lambda d: d["answers"][0], lambda d: "go", share)


def _ai2d() -> Made:
    docs = [
        {
            "question": f"What is part {row}?",
            "options": ["leaf", "root", "stem", "seed"],
            "answer": str(row % 4),
            "image": encoded(row // 2),
        }
        for row in range(2 * IMAGES)
    ]
    return Made(
        docs,
        lambda d: f"{'ABCD'[int(d['answer'])]}. because",
        lambda d: f"{_other('ABCD'[int(d['answer'])])}.",
        share,
    )


def _seedbench() -> Made:
    docs = [
        {
            "question": f"What is at {row}?",
            "choice_a": "one",
            "choice_b": "two",
            "choice_c": "three",
            "choice_d": "four",
            "answer": "ABCD"[row % 4],
            "data_type": "image",
            "question_id": str(row),
            "question_type_id": row % 3,
            "image": [encoded(row // 2)],
        }
        for row in range(2 * IMAGES)
    ]
    return Made(
        docs,
        lambda d: f"{d['answer']}. It is.",
        lambda d: _other(d["answer"]),
        share,
        lists=True,
    )


MADE: dict[str, Callable[[], Made]] = {
    "pope": _pope,
    "gqa": _gqa,
    "scienceqa_img": _scienceqa,
    "mme": _mme,
    "mmbench_en_dev_static": _mmbench,
    "textvqa_val": _textvqa,
    "ai2d": _ai2d,
    "seedbench": _seedbench,
}
"""By the task's name."""


def write(name: str, folder: Path, form: str = "parquet") -> Path:
    """Write a benchmark's documents, and return what to give to ``--task-data``.

    Args:
        name: of the task.
        folder: to write to.
        form: ``parquet`` (a file), ``folder`` (of such files), ``disk`` (``save_to_disk``).
    """
    import datasets

    made = MADE[name]()
    data = datasets.Dataset.from_list(made.docs)
    image = datasets.List(datasets.Image()) if made.lists else datasets.Image()
    data = data.cast_column("image", image)
    place = folder / name
    if form == "disk":
        data.save_to_disk(str(place))
        return place
    place.mkdir(parents=True)
    data.to_parquet(place / "test-00000-of-00001.parquet")
    return place / "test-00000-of-00001.parquet" if form == "parquet" else place
