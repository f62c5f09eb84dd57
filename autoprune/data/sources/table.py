"""A Hugging Face data set as rows: from the hub, a folder that was saved, or parquet files.

Its arrow files are mapped into memory, so that only what is read is held. Images stay bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoprune import hub
from autoprune.errors import AutoPruneError, did_you_mean

_BATCH = 1000


class Table:
    """Rows of a data set.

    Args:
        ref: a parquet file, a folder, or a name on the hub; ``:SPLIT`` behind it chooses a split.
    """

    def __init__(self, ref: str) -> None:
        self.ref = ref
        self._data: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"ref": self.ref, "_data": None}

    @property
    def data(self) -> Any:
        """The data set, with images left as bytes and paths."""
        if self._data is None:
            self._data = _undecoded(_loaded(self.ref))
        return self._data

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.data)

    @property
    def folder(self) -> Path:
        """Where image paths start unless a folder is named."""
        place = Path(self.ref)
        return place.parent if place.is_file() else place

    def columns(self, wanted: Sequence[Collection[str]] = ()) -> list[str]:
        """Return the names of the columns, whichever are wanted."""
        return list(self.data.column_names)

    def pictures(self) -> list[str]:
        """Return the columns that hold images by their type, one or a list of them a row."""
        return [name for name, feature in self.data.features.items() if _pictured(feature)]

    def scan(self, columns: list[str], image: str | None) -> Iterator[dict[str, Any]]:
        """Yield all rows in order; images as ``{"bytes": buffer, "path": ...}``, uncopied."""
        data = self.data.select_columns(columns).with_format("arrow")
        for begin in range(0, len(data), _BATCH):
            table = data[begin : begin + _BATCH]
            plain = [name for name in columns if name != image]
            rows = table.select(plain).to_pylist() if plain else [{} for _ in range(len(table))]
            if image is not None and image in columns:
                for row, cell in zip(rows, table.column(image), strict=True):
                    row[image] = _uncopied(cell)
            yield from rows

    def row(self, index: int) -> dict[str, Any]:
        """Return a row."""
        found: dict[str, Any] = self.data[int(index)]
        return found


def _uncopied(cell: Any) -> Any:
    """Return an arrow cell of an image column: bytes as a buffer, lists as lists."""
    import pyarrow as pa

    if not cell.is_valid:
        return None
    if isinstance(cell, (pa.ListScalar, pa.LargeListScalar)):
        return [_uncopied(item) for item in cell]
    if isinstance(cell, pa.StructScalar):
        names = [field.name for field in cell.type]
        return {name: _uncopied(cell[name]) for name in names}
    if isinstance(cell, (pa.BinaryScalar, pa.LargeBinaryScalar)) and not isinstance(
        cell, (pa.StringScalar, pa.LargeStringScalar)
    ):
        return cell.as_buffer()
    return cell.as_py()


def _pictured(feature: Any) -> bool:
    """Whether a feature is an image, a list of images, or what images are stored as."""
    from datasets import Image

    feature = getattr(feature, "feature", feature)
    stored = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
    return stored or isinstance(feature, Image)


def _undecoded(data: Any) -> Any:
    """Return a data set whose images are bytes and paths."""
    from datasets import Image, List, Sequence

    for name, feature in data.features.items():
        if isinstance(feature, Image):
            data = data.cast_column(name, Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), Image):
            kind = List if isinstance(feature, List) else Sequence
            data = data.cast_column(name, kind(Image(decode=False)))
    return data


def _loaded(ref: str) -> Any:
    """Load a data set, and choose its split."""
    from datasets import DatasetDict, load_dataset, load_from_disk

    name, split = _named(ref)
    place = Path(name)
    with _in_a_line(ref):
        if place.is_file():
            found = load_dataset("parquet", data_files=str(place), split="train")
        elif (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
            found = load_from_disk(str(place))
        elif place.is_dir():
            files = [str(path) for path in sorted(place.rglob("*.parquet"))]
            found = load_dataset("parquet", data_files=files, split="train")
        else:
            with hub.asked():
                found = load_dataset(name)
    if not isinstance(found, DatasetDict):
        return found
    wanted = split or ("train" if "train" in found else next(iter(found), ""))
    if wanted not in found or (split is None and len(found) > 1 and "train" not in found):
        known = did_you_mean(wanted, list(found)) if split else f" (it has {', '.join(found)})"
        raise AutoPruneError(
            f"data set {name!r} has no split {split or 'train'!r}{known}: name one as {name}:SPLIT"
        )
    return found[wanted]


def _named(ref: str) -> tuple[str, str | None]:
    if Path(ref).exists():
        return ref, None
    name, sign, split = ref.rpartition(":")
    return (name, split) if sign else (ref, None)


@contextmanager
def _in_a_line(ref: str) -> Iterator[None]:
    """Turn whatever loading raises into a line; switch its progress bars off."""
    import datasets

    off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with hub.silent("datasets"):
            yield
    except AutoPruneError:
        raise
    except Exception as error:  # whatever a reader, the hub or a network raises
        reason = " ".join(str(error).split())[:200]
        if not Path(_named(ref)[0]).exists() and not hub.switched_off() and not hub.reachable():
            reason = "the Hugging Face hub does not answer"
        raise AutoPruneError(
            f"data set {ref!r} cannot be loaded ({reason}): name a JSON or parquet file, a folder "
            "of save_to_disk, or a data set that can be reached"
        ) from None
    finally:
        if not off:
            datasets.enable_progress_bars()
