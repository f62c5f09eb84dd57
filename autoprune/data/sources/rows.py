"""One row of a user's data as questions and answers, in the forms that such data comes in.

Conversations are LLaVA's (``from: human|gpt``, ``value``) or those of chat templates (``role``,
``content``); either may begin with a system message. ``<image>`` in a question says where an image
stands. Without any mark, images stand before the first question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.data.samples import Turn

MARK = "<image>"
ASKING, ANSWERING = ("human", "user"), ("gpt", "assistant")
SYSTEM = "system"


class BadRow(Exception):  # noqa: N818 - one of many, which are counted
    """A row that cannot be read.

    Attributes:
        kind: one of ``KINDS``.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


KINDS = {
    "row": ("is no object", "are no objects", "write each as {...}"),
    "conversations": ("has no conversations", "have no conversations", "give each a list of turns"),
    "turns": (
        "does not go human, gpt, human, gpt",
        "do not go human, gpt, human, gpt",
        "end each with an answer, and let a system message only stand first",
    ),
    "question": ("says nothing in a question", "say nothing in a question", "take them out"),
    "answer": ("has an empty answer", "have an empty answer", "fill them or take them out"),
    "marks": (
        f"has another number of {MARK} marks than of images",
        f"have another number of {MARK} marks than of images",
        "give each image one mark",
    ),
    "unread": (
        f"has an {MARK} mark, and no column of images is known",
        f"have {MARK} marks, and no column of images is known",
        "name it, as in --columns image=picture",
    ),
    "image": ("has an image that is no path", "have an image that is no path", "name a file"),
}
"""What can be wrong with a row: of one, of several, and the mend."""


@dataclass(frozen=True)
class Fields:
    """The columns that hold what is read; None where there is none."""

    id: str | None
    image: str | None
    question: str | None
    answer: str | None
    conversations: str | None

    @property
    def used(self) -> list[str]:
        """All columns that are read."""
        named = (self.id, self.image, self.question, self.answer, self.conversations)
        return [name for name in named if name is not None]


def images_of(row: Mapping[str, Any], fields: Fields) -> list[Any]:
    """Return what a row names as its images, in order."""
    value = None if fields.image is None else row.get(fields.image)
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def system_of(row: Any, fields: Fields) -> str:
    """Return the text of a row's system message; empty where it has none.

    Raises:
        BadRow: it shows an image.
    """
    said = row.get(fields.conversations) if isinstance(row, Mapping) else None
    first = said[0] if _several(said) and said else None
    if not isinstance(first, Mapping) or _role(first) != SYSTEM:
        return ""
    text = _said(first).strip()
    if MARK in text:
        raise BadRow("marks")
    return text


def turns_of(row: Any, fields: Fields, images: int, source: str) -> tuple[Turn, ...]:
    """Return a row's turns, with a mark for each of its images.

    Raises:
        BadRow: naming what is wrong.
    """
    if not isinstance(row, Mapping):
        raise BadRow("row")
    turns = []
    for question, answer in _pairs(row, fields):
        text, marks = _marked(question)
        if MARK in answer:
            raise BadRow("marks")
        if not text and not marks:
            raise BadRow("question")
        if not answer.strip():
            raise BadRow("answer")
        turns.append(Turn(text, answer.strip(), source, marks))
    found = sum(len(turn.marks) for turn in turns)
    if not found and images:
        first = turns[0]
        turns[0] = Turn(first.question, first.answer, source, (0,) * images)
    elif found != images:
        raise BadRow("unread" if fields.image is None else "marks")
    return tuple(turns)


def _pairs(row: Mapping[str, Any], fields: Fields) -> list[tuple[str, str]]:
    if fields.conversations is None:
        question, answer = row.get(fields.question or ""), row.get(fields.answer or "")
        if question is None:
            raise BadRow("question")
        if answer is None:
            raise BadRow("answer")
        return [(_text(question), _text(answer))]
    said = row.get(fields.conversations)
    if not _several(said) or not said:
        raise BadRow("conversations")
    if not all(isinstance(message, Mapping) for message in said):
        raise BadRow("turns")
    talk = said[1:] if _role(said[0]) == SYSTEM else said
    if not talk:
        raise BadRow("conversations")
    roles, texts = [_role(message) for message in talk], [_said(message) for message in talk]
    asks, answers = roles[::2], roles[1::2]
    right = all(role in ASKING for role in asks) and all(role in ANSWERING for role in answers)
    if not right or len(asks) != len(answers):
        raise BadRow("turns")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _several(said: Any) -> bool:
    return isinstance(said, Sequence) and not isinstance(said, str)


def _role(message: Mapping[str, Any]) -> Any:
    return message.get("from", message.get("role"))


def _said(message: Mapping[str, Any]) -> str:
    return _text(message.get("value", message.get("content", "")))


def _text(value: Any) -> str:
    """Return a message's text; parts of a chat template's form become marks and text."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        parts = [part if isinstance(part, Mapping) else {"text": str(part)} for part in value]
        return "".join(
            MARK if part.get("type") == "image" else str(part.get("text") or "") for part in parts
        )
    return "" if value is None else str(value)


def _marked(question: str) -> tuple[str, tuple[int, ...]]:
    """Return a question without its marks, and where they stood."""
    pieces = [piece.strip("\n") for piece in question.split(MARK)]
    pieces[0], pieces[-1] = pieces[0].lstrip(), pieces[-1].rstrip()
    if len(pieces) > 1 and not pieces[0].strip():
        pieces[0] = ""
    if not pieces[0]:
        pieces[1:2] = [piece.lstrip() for piece in pieces[1:2]]
    text, marks = pieces[0], []
    for piece in pieces[1:]:
        marks.append(len(text))
        text += piece
    return text, tuple(marks)
