"""What can be known of a checkpoint directory without loading it, and what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune import hub
from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.identity import content_hash, file_hash

FULL_HASH_BYTES = 2 * 1024**3
_SAMPLES, _SAMPLE_BYTES = 256, 1 << 16
# Notes in a configuration that do not change the model; dtypes stand in the weights' headers.
_NOTES = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "transformers_version",
}
STORED = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Floating dtypes as safetensors and as torch name them."""

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth"}
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
_HUB_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_FOLDERS = ("checkpoint", "checkpoints", "data", "model", "models", "output", "outputs", "runs")
"""What folders of one's own are called: a path that begins so is no name on the hub."""


@dataclass(frozen=True)
class TensorHeader:
    """A tensor as a safetensors header describes it; ``start`` is its first byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int


def resolve_ref(ref: str | Path, named: Mapping[str, Any] | None = None) -> Path:
    """Return the directory that a model's name means.

    Args:
        ref: a directory, one of the ``named`` models, or a name on the Hugging Face hub.
        named: names that the caller knows; each value returns a directory when called.

    Raises:
        AutoPruneError: if there is no such model; the message gives the nearest name.
    """
    text = str(ref)
    named = named or {}
    if text in named:
        return Path(named[text]())
    path = Path(text).expanduser()
    if text and path.is_dir():
        return path
    if path.is_file():
        raise AutoPruneError(f"model {text!r} is a file: pass the directory that holds it")
    if _HUB_NAME.fullmatch(text) and not path.parent.is_dir():
        return _hub_directory(text)
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = did_you_mean(path.name, siblings) if "/" in text and siblings else ""
    if not near.startswith(" (did"):
        near = did_you_mean(text, named) if named else ""
    raise AutoPruneError(
        f"model {text!r} does not exist{near}: pass a directory or the name of a model on the hub"
    )


def origin_of(directory: Path) -> str | None:
    """Return the name on the hub of what a directory holds or was made from, if anything tells.

    A snapshot in the hub's own cache is known by its place. Elsewhere the configuration may name
    what it was loaded from when it was saved, ``_name_or_path``.

    Raises:
        AutoPruneError: its configuration cannot be read.
    """
    for part in directory.absolute().parts:
        if part.startswith("models--") and part.count("--") == 2:
            return part.removeprefix("models--").replace("--", "/")
    said = str(read_config(directory).get("_name_or_path") or "")
    if _HUB_NAME.fullmatch(said) and said.partition("/")[0].lower() not in _FOLDERS:
        return said
    return None


def _hub_directory(name: str) -> Path:
    """Return the local snapshot of a hub model, downloading it where that is allowed."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model", "README.md"]
    patterns.append("conversation.py")  # the prompt of some original layouts; read, never run
    try:
        with hub.asked():
            return Path(snapshot_download(name, allow_patterns=patterns))
    except LocalEntryNotFoundError:
        raise AutoPruneError(
            f"model {name!r} is neither a directory nor in the local cache, and the hub cannot "
            "be reached: go online, or pass a directory"
        ) from None
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AutoPruneError(
            f"model {name!r} cannot be fetched from the hub ({reason}): pass a directory"
        ) from None


def read_config(directory: Path) -> dict[str, Any]:
    """Return ``config.json`` as plain values.

    Raises:
        AutoPruneError: if it is missing or no JSON object.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise AutoPruneError(f"{directory} has no config.json: pass a model's directory")
    return read_json(path)


def holds_weights(directory: Path) -> bool:
    """Whether a directory holds anything that means to be weights, whole or not."""
    return (directory / _INDEX).exists() or any(
        path.suffix in _WEIGHT_SUFFIXES for path in directory.iterdir()
    )


def tensor_headers(directory: Path) -> dict[str, TensorHeader]:
    """Return every tensor of a checkpoint by name, from the files' headers alone.

    Raises:
        AutoPruneError: if there are no safetensors weights, a shard is missing, or a file is
            truncated or damaged.
    """
    headers: dict[str, TensorHeader] = {}
    index = directory / _INDEX
    if index.is_file():
        mapping = read_json(index).get("weight_map", {})
        if not isinstance(mapping, dict) or not all(isinstance(v, str) for v in mapping.values()):
            raise AutoPruneError(f"{index} does not say which file holds what: copy it again")
        for name in sorted(set(mapping.values())):
            if not (directory / name).is_file():
                raise AutoPruneError(
                    f"{directory} lacks {name}, which {_INDEX} names: copy the missing shard"
                )
            headers.update(_file_headers(directory / name))
        if lost := sorted(set(mapping) - set(headers)):
            raise AutoPruneError(
                f"{mapping[lost[0]]} lacks {lost[0]}, which {_INDEX} says it holds: copy the "
                "shards of one checkpoint"
            )
    elif (directory / _WEIGHTS).is_file():
        headers.update(_file_headers(directory / _WEIGHTS))
    elif any(directory.glob("*.bin")) or any(directory.glob("*.pt")):
        raise AutoPruneError(
            f"{directory} holds pickled weights only: save them as safetensors first "
            "(model.save_pretrained writes those)"
        )
    elif (directory / "onnx").is_dir() or any(directory.glob("*.gguf")):
        raise AutoPruneError(
            f"{directory} holds an exported model in another format, which its README says how to "
            "run: pass the checkpoint that it was made from"
        )
    else:
        raise AutoPruneError(
            f"{directory} has no weights: put {_WEIGHTS}, or the shards and {_INDEX}, there"
        )
    if not headers:
        raise AutoPruneError(f"the weights in {directory} hold no tensor: copy them again")
    return headers


def check_processor(directory: Path, vision: bool) -> None:
    """Check that a model's processor lies beside it.

    Raises:
        AutoPruneError: naming what is missing.
    """
    if not any((directory / name).is_file() for name in _TOKENIZER_FILES):
        raise AutoPruneError(
            f"{directory} has no tokenizer: put tokenizer.json and tokenizer_config.json there"
        )
    if vision and not any((directory / name).is_file() for name in _PROCESSOR_FILES):
        raise AutoPruneError(
            f"{directory} has no processor: put processor_config.json or "
            "preprocessor_config.json there"
        )


def lacking(directory: Path, vision: bool) -> tuple[str, ...]:
    """Return what a directory lacks of weights, tokenizer and, for ``vision``, processor."""
    there = {
        "weights": holds_weights(directory),
        "tokenizer": any((directory / name).is_file() for name in _TOKENIZER_FILES),
        "processor": not vision or any((directory / name).is_file() for name in _PROCESSOR_FILES),
    }
    return tuple(name for name, found in there.items() if not found)


def stored_dtype(headers: Iterable[TensorHeader]) -> str:
    """Return the dtype, as torch names it, that most of a checkpoint's numbers are stored in."""
    sizes: Counter[str] = Counter()
    for header in headers:
        sizes[header.dtype] += math.prod(header.shape)
    code = max(sizes, key=lambda name: sizes[name])
    return STORED.get(code, code)


def checkpoint_identity(directory: Path, headers: Iterable[TensorHeader]) -> str:
    """Return a hash of a checkpoint's configuration and weights.

    Up to 2 GiB of weights every byte counts.  Beyond that, each file counts with its size,
    its header and 256 blocks of 64 KiB spread evenly over it, so that a large model is known
    in a second; a change between the blocks is then not seen.
    """
    files = sorted({header.file for header in headers})
    config = _without_notes(read_config(directory))
    if sum(path.stat().st_size for path in files) <= FULL_HASH_BYTES:
        hashes = [file_hash(path) for path in files]
    else:
        hashes = [_sampled_hash(path) for path in files]
    return content_hash(config, hashes)


def processor_identity(directory: Path) -> str:
    """Return a hash of what beside the weights says how text and images are read and answered."""
    kinds = ("*token*", "*processor*", "chat_template*", "vocab*", "merges*", "generation_config*")
    files = sorted({path for kind in kinds for path in directory.glob(kind) if path.is_file()})
    return content_hash([[path.name, file_hash(path)] for path in files])


def licence_of(directory: Path) -> str | None:
    """Return the licence that a checkpoint's card states, if it has one."""
    card = directory / "README.md"
    if card.is_file():
        match = re.search(r"^license:\s*(.+)$", card.read_text(errors="replace"), re.MULTILINE)
        if match:
            return match[1].strip().strip("\"'")
    return None


def _without_notes(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_notes(v) for k, v in value.items() if k not in _NOTES}
    return value


def _sampled_hash(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
        digest.update(stream.read(header))
        step = max(_SAMPLE_BYTES, (size - header - 8) // _SAMPLES)
        for start in range(8 + header, size, step):
            stream.seek(start)
            digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _file_headers(path: Path) -> dict[str, TensorHeader]:
    size = path.stat().st_size
    damaged = AutoPruneError(f"{path} is truncated or damaged: copy it again")
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise damaged
        try:
            table = json.loads(stream.read(length))
            rows = {name: row for name, row in table.items() if name != "__metadata__"}
            end = max((row["data_offsets"][1] for row in rows.values()), default=0)
            headers = {
                name: TensorHeader(
                    row["dtype"], tuple(row["shape"]), path, 8 + length + row["data_offsets"][0]
                )
                for name, row in rows.items()
            }
        except (ValueError, AttributeError, LookupError, TypeError):
            raise damaged from None
    if 8 + length + end != size:
        raise damaged
    return headers


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turn what transformers raises for values that it cannot take into an error about a file."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        StrictDataclassError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise AutoPruneError(
            f"{path} is not valid ({reason}): use the file that belongs to these weights"
        ) from None


def generation_settings(directory: Path) -> Any:
    """Return a checkpoint's settings of generation; None where it has no file of them.

    Raises:
        AutoPruneError: if they cannot be read.
    """
    path = directory / "generation_config.json"
    if not path.is_file():
        return None
    from transformers import GenerationConfig

    read_json(path)
    with blaming(path):
        return GenerationConfig.from_pretrained(directory)


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's JSON object.

    Raises:
        AutoPruneError: if it cannot be read or is something else.
    """
    try:
        data = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise AutoPruneError(f"{path} cannot be read ({error}): copy it again") from None
    if not isinstance(data, dict):
        raise AutoPruneError(f"{path} is no JSON object: copy it again")
    return data
