"""A first pass over a source: what is wrong with it, and an index that says what its rows hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.data.samples import Sample
from autoprune.data.sources.pictures import known_by, open_image, path_of, text_number
from autoprune.data.sources.rows import KINDS, BadRow, Fields, images_of, system_of, turns_of
from autoprune.data.sources.table import Table
from autoprune.data.sources.text import TextFile
from autoprune.data.splits import DataSpec
from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.identity import content_hash

SHOWN = 3
"""So many bad rows are named."""

SHORT = 5
"""Most words of an answer that is compared word by word."""

_USUAL = {
    "id": ("id",),
    "image": ("image", "images"),
    "question": ("question",),
    "answer": ("answer",),
    "conversations": ("conversations", "messages"),
}


@dataclass(frozen=True, eq=False)
class Index:
    """What the rows of a source hold; a few dozen bytes a row.

    Attributes:
        images: ``int64 [images of all rows]``: which image each is, by content.
        offsets: ``int64 [rows + 1]`` into ``images``.
        turns: ``int32 [rows]``.
        size: ``int64 [rows]``: bytes of all questions and answers.
        texts: ``int64 [rows]``: which text each row has, by content, marks of images included.
        short: ``bool [rows]``: whether the first answer has few words.
        system: ``bool [rows]``: whether it begins with a system message.
        commonest: share of the rows whose first answer is the commonest one.
        content: hash of what is read of the source, texts and images, in whatever form it comes.
    """

    images: np.ndarray
    offsets: np.ndarray
    turns: np.ndarray
    size: np.ndarray
    texts: np.ndarray
    short: np.ndarray
    system: np.ndarray
    commonest: float
    content: str

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.turns)

    @property
    def counts(self) -> np.ndarray:
        """``int64 [rows]``: images of each row."""
        return np.diff(self.offsets)


@dataclass(eq=False)
class Source:
    """A source that was looked through: its rows by number.

    Attributes:
        name: short, told apart from the others'.
        ref: as it was named.
        file: where the rows come from.
        fields: columns that are read.
        folder: that relative image paths start from.
        index: what the rows hold.
    """

    name: str
    ref: str
    file: TextFile | Table
    fields: Fields
    folder: Path
    index: Index = field(init=False)

    def sample(self, row: int) -> Sample:
        """Return a row as one conversation, its images opened.

        Raises:
            AutoPruneError: an image that is not there any more, or does not decode.
        """
        raw = self.file.row(row)
        try:
            values = images_of(raw, self.fields)
            turns = turns_of(raw, self.fields, len(values), self.name)
            system = system_of(raw, self.fields)
        except (BadRow, AttributeError):
            raise AutoPruneError(f"{self.ref} has changed since it was read: start again") from None
        called = self.called(raw, row)
        images = [open_image(value, self.folder, called) for value in values]
        return Sample(
            key=f"{self.name}-{row}",
            image=images[0] if images else None,
            turns=turns,
            more=tuple(images[1:]),
            together=True,
            system=system,
        )

    def called(self, raw: Any, row: int) -> str:
        """Return what to call a row in a message."""
        name = raw.get(self.fields.id) if isinstance(raw, Mapping) and self.fields.id else None
        said = f"row {row + 1:,}" if name in (None, "") else f"row {row + 1:,} (id {name!r})"
        return f"{said} of {self.ref}"

    def look_through(self) -> None:
        """Read all rows once, and make the index.

        Raises:
            AutoPruneError: rows that cannot be read, or images that are not there: how many, and
                the first of them.
        """
        bad: dict[str, list[str]] = {}
        missing: list[str] = []
        images: list[int] = []
        offsets, turns, size, texts, short, system = [0], [], [], [], [], []
        first: Counter[str] = Counter()
        seen: dict[Path, int] = {}
        lost = 0
        for number, raw in enumerate(self._rows()):
            try:
                values = images_of(raw, self.fields) if isinstance(raw, Mapping) else []
                said = turns_of(raw, self.fields, len(values), self.name)
                before = system_of(raw, self.fields)
            except BadRow as error:
                bad.setdefault(error.kind, []).append(self._short(raw, number))
                continue
            for value in values:
                try:
                    path = path_of(value, self.folder)
                    known = None if path is None else seen.get(path)
                    if known is None:
                        known = known_by(value, self.folder)
                        if path is not None:
                            seen[path] = known
                    images.append(known)
                except TypeError:
                    bad.setdefault("image", []).append(self._short(raw, number))
                    break
                except OSError:
                    lost += 1
                    if len(missing) < SHOWN:
                        missing.append(str(path))
            offsets.append(len(images))
            turns.append(len(said))
            words = "\n".join(text for turn in said for text in (turn.question, turn.answer))
            if before:
                words = f"{before}\n\n{words}"
            system.append(bool(before))
            size.append(len(words.encode()))
            texts.append(text_number(f"{[turn.marks for turn in said]} {words}"))
            short.append(len(said[0].answer.split()) <= SHORT)
            if short[-1]:
                first[said[0].answer.casefold()] += 1
        self._complain(bad)
        if lost:
            raise AutoPruneError(
                f"{lost:,} {'image' if lost == 1 else 'images'} of {self.ref} cannot be read, such "
                f"as {', '.join(missing)}: name their folder by --images, or take these rows out"
            )
        if not turns:
            raise AutoPruneError(f"{self.ref} holds no rows: give data with some")
        found = np.array(images, dtype=np.int64)
        places, known_texts = np.array(offsets, dtype=np.int64), np.array(texts, dtype=np.int64)
        self.index = Index(
            images=found,
            offsets=places,
            turns=np.array(turns, dtype=np.int32),
            size=np.array(size, dtype=np.int64),
            texts=known_texts,
            short=np.array(short, dtype=bool),
            system=np.array(system, dtype=bool),
            commonest=max(first.values(), default=0) / len(turns),
            content=content_hash(found, places, known_texts),
        )

    def _rows(self) -> Iterator[Any]:
        if isinstance(self.file, TextFile):
            return self.file.scan()
        return self.file.scan(list(dict.fromkeys(self.fields.used)), self.fields.image)

    def _short(self, raw: Any, row: int) -> str:
        name = raw.get(self.fields.id) if isinstance(raw, Mapping) and self.fields.id else None
        return f"row {row + 1:,}" if name in (None, "") else f"row {row + 1:,} (id {name!r})"

    def _complain(self, bad: Mapping[str, Sequence[str]]) -> None:
        for kind, (one, several, mend) in KINDS.items():
            rows = bad.get(kind)
            if not rows:
                continue
            if len(rows) == 1:
                raise AutoPruneError(f"{rows[0]} of {self.ref} {one}: {mend}")
            named = ", ".join(rows[:SHOWN]) + (", …" if len(rows) > SHOWN else "")
            raise AutoPruneError(f"{len(rows):,} rows of {self.ref} {several} ({named}): {mend}")


def open_sources(data: DataSpec) -> list[Source]:
    """Open the sources of a user's data, without looking through them.

    Raises:
        AutoPruneError: a source is not there, is of no known kind, or lacks a column.
    """
    if data.images is not None and not Path(data.images).is_dir():
        raise AutoPruneError(f"--images {data.images!r} is no directory: name the images' folder")
    files = [_file(source.ref) for source in data.sources]
    wanted: list[tuple[str, ...]] = [(column,) for _, column in data.columns]
    if "image" not in data.mapping:
        wanted.append(_USUAL["image"])
    columns = [file.columns(wanted) for file in files]
    for name, column in data.columns:
        if not any(column in there for there in columns):
            known = dict.fromkeys(name for there in columns for name in there)
            raise AutoPruneError(
                f"--columns {name}={column}: there is no column {column!r}"
                f"{did_you_mean(column, list(known))}"
            )
    sources: list[Source] = []
    for spec, file, there in zip(data.sources, files, columns, strict=True):
        fields = _fields(spec.ref, there, data.mapping, file.pictures())
        # Whole paths: workers have a directory of their own.
        folder = (Path(data.images) if data.images is not None else file.folder).absolute()
        name = _name(spec.ref, [source.name for source in sources])
        sources.append(Source(name, spec.ref, file, fields, folder))
    return sources


def _fields(
    ref: str, there: Sequence[str], mapping: Mapping[str, str], pictures: Sequence[str]
) -> Fields:
    """Choose the columns that are read of a source; ``pictures`` hold images by their type."""
    found: dict[str, str | None] = {}
    for name, usual in _USUAL.items():
        named = [mapping[name]] if mapping.get(name) in there else []
        found[name] = next((c for c in [*named, *usual] if c in there), None)
    for name in ("question", "answer"):
        if found[name] in pictures:
            raise AutoPruneError(
                f"--columns {name}={found[name]}: column {found[name]!r} of {ref} holds images: "
                "name one of text"
            )
    if found["image"] is None and len(pictures) > 1:
        raise AutoPruneError(
            f"{ref} has several columns of images ({', '.join(pictures)}): name the one to read, "
            f"as in --columns image={pictures[0]}"
        )
    found["image"] = found["image"] or next(iter(pictures), None)
    pair = "question" in mapping or "answer" in mapping
    if found["conversations"] is not None and not (pair and mapping.get("question") in there):
        found["question"] = found["answer"] = None
    else:
        found["conversations"] = None
        lacks = [name for name in ("question", "answer") if found[name] is None]
        if lacks and there:
            raise AutoPruneError(
                f"{ref} has neither conversations nor question and answer among its columns "
                f"({', '.join(there)}): name them, as in --columns question=prompt,answer=label"
            )
        if lacks:
            found["conversations"] = "conversations"
    return Fields(**found)


def _file(ref: str) -> TextFile | Table:
    """Return the reader of a source by what it is."""
    place = Path(ref).absolute() if Path(ref).exists() else Path(ref)
    if place.is_dir():
        texts = [p for end in ("*.json", "*.jsonl") for p in sorted(place.glob(end))]
        saved = any((place / name).is_file() for name in ("dataset_dict.json", "state.json"))
        if saved or next(place.rglob("*.parquet"), None) is not None:
            return Table(str(place))
        if len(texts) == 1:
            return TextFile(texts[0])
        raise AutoPruneError(
            f"{ref} is a folder of {len(texts) or 'no'} JSON files and no saved data set: name "
            "one file"
        )
    if place.is_file():
        if place.suffix.lower() == ".parquet":
            return Table(str(place))
        if place.suffix.lower() in (".json", ".jsonl", ".ndjson"):
            return TextFile(place)
        raise AutoPruneError(f"{ref} is of no known kind: give .json, .jsonl or .parquet")
    if place.suffix.lower() in (".json", ".jsonl", ".parquet") or ref.startswith((".", "/", "~")):
        raise AutoPruneError(f"{ref} does not exist: name a file, a folder, or a hub name")
    return Table(ref)


def _name(ref: str, taken: Sequence[str]) -> str:
    """Return a short name for a source, of letters, digits and underlines."""
    stem = Path(ref.rpartition(":")[0] or ref) if not Path(ref).exists() else Path(ref)
    base = stem.stem if stem.suffix else stem.name
    kept = "".join(c if c.isalnum() and c.isascii() else "_" for c in base).strip("_") or "data"
    found, number = kept, 2
    while found in taken:
        found, number = f"{kept}_{number}", number + 1
    return found
