"""A JSON list or JSONL file of rows, of which nothing is held but where each row begins."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.errors import AutoPruneError

_WINDOW = 8 << 20
_SPACE = " \t\r\n"


class TextFile:
    """Rows of a JSON or JSONL file; they are parsed where they are read.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spans = np.zeros((0, 2), dtype=np.int64)
        self._stream: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None}

    def __len__(self) -> int:
        """Return the number of rows that were found."""
        return len(self.spans)

    @property
    def folder(self) -> Path:
        """Where image paths start unless a folder is named."""
        return self.path.parent

    def columns(self, wanted: Sequence[Collection[str]] = ()) -> list[str]:
        """Return the keys of the first row, and of those behind it while a wanted one is missing.

        Args:
            wanted: groups of keys; of each group one has to be found. Rows may lack keys (those of
                text alone have no image), so that the first says little.
        """
        found: dict[str, None] = {}
        for row in self.scan(note=False):
            found |= dict.fromkeys(row if isinstance(row, dict) else ())
            if all(not found.keys().isdisjoint(group) for group in wanted):
                break
        return list(found)

    def pictures(self) -> list[str]:
        """Return the columns that hold images by their type: JSON knows of none."""
        return []

    def scan(self, *, note: bool = True) -> Iterator[Any]:
        """Yield all rows in order, and note where they stand.

        The bytes are read as Latin-1, in which each is one character, so that places in the text
        are places in the file; rows with other characters are parsed anew.

        Raises:
            AutoPruneError: the file is no JSON list of rows, nor one row a line.
        """
        spans: list[tuple[int, int]] = []
        for begin, end, row, window in self._elements():
            spans.append((begin, end))
            yield row if window.isascii() else self._parsed(window)
        if not spans:
            raise AutoPruneError(f"{self.path} holds no rows: give a file with some")
        if note:
            self.spans = np.array(spans, dtype=np.int64)

    def row(self, index: int) -> Any:
        """Return a row that was scanned."""
        if self._stream is None:
            self._stream = self.path.open("rb")
        begin, end = self.spans[index].tolist()
        self._stream.seek(begin)
        raw = self._stream.read(end - begin)
        try:
            return json.loads(raw)
        except ValueError:
            raise AutoPruneError(
                f"{self.path} has changed since it was read: start again"
            ) from None

    def _parsed(self, window: str) -> Any:
        try:
            return json.loads(window.encode("latin-1"))
        except UnicodeDecodeError:
            raise AutoPruneError(f"{self.path} is not UTF-8 text: save it as UTF-8") from None

    def _elements(self) -> Iterator[tuple[int, int, Any, str]]:
        """Yield begin, end, value and text of each row."""
        decode = json.JSONDecoder().raw_decode
        window = _Window(self.path)
        first = window.skip(_SPACE + "\u00ef\u00bb\u00bf")
        if first not in ("[", "{"):
            raise AutoPruneError(
                f"{self.path} is no JSON list: give a list of rows, or one row a line"
            )
        listed = first == "["
        if listed:
            window.place += 1
        count = 0
        while True:
            head = window.skip(_SPACE)
            if listed and count and head == ",":
                window.place += 1
                head = window.skip(_SPACE)
            elif listed and count and head not in ("]", ""):
                raise self._broken(count, "a comma is missing before it")
            if listed and head == "]":
                window.place += 1
                if window.skip(_SPACE):
                    raise self._broken(count, "there is text behind the list")
                return
            if not head:
                if listed:
                    raise self._broken(count, "the file ends before the list does")
                return
            while True:
                try:
                    value, end = decode(window.text, window.inner)
                    # A number at the very end may go on in what was not read yet.
                    if end < len(window.text) or not window.more():
                        break
                except json.JSONDecodeError as error:
                    if not window.more():
                        raise self._broken(count, error.msg) from None
            text = window.text[window.inner : end]
            begin = window.place
            window.place += end - window.inner
            count += 1
            if not listed and count == 1 and not self._is_lines(value, window):
                raise AutoPruneError(
                    f"{self.path} is a JSON object, not a list: give a list of rows, or one row "
                    "a line"
                )
            yield begin, window.place, value, text

    def _is_lines(self, first: Any, window: _Window) -> bool:
        """Whether a file that begins with an object has one row a line."""
        return self.path.suffix.lower() in (".jsonl", ".ndjson") or window.skip(_SPACE) == "{"

    def _broken(self, rows: int, why: str) -> AutoPruneError:
        return AutoPruneError(
            f"{self.path} breaks off behind row {rows:,} ({why}): write it again as JSON"
        )


class _Window:
    """A part of a file as text that moves along with ``place``, in bytes."""

    def __init__(self, path: Path) -> None:
        self.stream = path.open("rb")
        self.start = 0
        self.text = ""
        self.place = 0
        self.ended = False

    def __del__(self) -> None:
        self.stream.close()

    @property
    def inner(self) -> int:
        """``place`` within the text."""
        return self.place - self.start

    def more(self) -> bool:
        """Read on, and let go of what lies behind; False at the end of the file."""
        block = self.stream.read(max(_WINDOW, len(self.text) - self.inner))
        self.text = self.text[self.inner :] + block.decode("latin-1")
        self.start = self.place
        return bool(block)

    def skip(self, characters: str) -> str:
        """Move behind ``characters``, and return the next one; nothing at the end."""
        while True:
            while self.inner < len(self.text) and self.text[self.inner] in characters:
                self.place += 1
            if self.inner < len(self.text):
                return self.text[self.inner]
            if not self.more():
                return ""
