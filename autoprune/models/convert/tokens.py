"""The tokenizer of a checkpoint in its authors' layout, with the tokens that a processor needs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.errors import AutoPruneError
from autoprune.models.files import read_json

_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
_VOCABULARIES = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))


def load_tokenizer(directory: Path, text_config: Any, named: Mapping[str, str]) -> Any:
    """Return a fast tokenizer that knows the named tokens and pads on the left, for generation.

    It is read from a copy of its files alone, so that the original configuration, which points
    at code, plays no part.

    Args:
        directory: the checkpoint's.
        text_config: of the transformers text backbone; says which class a tokenizer without a
            named class has.
        named: names of special tokens and the tokens; those that the vocabulary lacks are added.

    Raises:
        AutoPruneError: if it is missing or cannot be read.
    """
    import transformers

    added = set(named.values())
    if not any(all((directory / name).is_file() for name in names) for names in _VOCABULARIES):
        raise AutoPruneError(
            f"{directory} has no tokenizer: put its tokenizer.json, or its tokenizer.model, there"
        )
    with tempfile.TemporaryDirectory(prefix="autoprune-tokenizer-") as scratch:
        for name in _FILES:
            if (directory / name).is_file():
                shutil.copy(directory / name, scratch)
        text_config.save_pretrained(scratch)
        kind = _named_class(directory) or transformers.AutoTokenizer
        try:
            tokenizer = kind.from_pretrained(
                scratch, extra_special_tokens=dict(named), padding_side="left"
            )
        except Exception as error:
            lines = str(error).strip().splitlines()
            reason = lines[0][:200] if lines else type(error).__name__
            raise AutoPruneError(
                f"the tokenizer in {directory} cannot be loaded ({reason}): copy its files again"
            ) from None
    if not getattr(tokenizer, "is_fast", False):
        raise AutoPruneError(
            f"the tokenizer in {directory} has no fast form ({type(tokenizer).__name__}): put its "
            "tokenizer.json there"
        )
    size = int(text_config.vocab_size)
    vocabulary = tokenizer.get_vocab()
    if beyond := [word for word, at in vocabulary.items() if at >= size and word not in added]:
        raise AutoPruneError(
            f"the tokenizer in {directory} has token {vocabulary[beyond[0]]} where the model has "
            f"{size} tokens: copy the tokenizer that belongs to these weights"
        )
    for token in named.values():
        ids = tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise AutoPruneError(
                f"the tokenizer in {directory} splits {token} into {len(ids)} tokens: copy its "
                "files again"
            )
    return tokenizer


def space_before(directory: Path, tag: str) -> bool:
    """Return whether the original tokenizer sees a space before a tag that begins a text.

    A SentencePiece model read in the newer of its slow forms puts one before every text and
    takes it away again only before the special tokens that have a role or are listed.
    """
    model, config = directory / "tokenizer.model", directory / "tokenizer_config.json"
    if (directory / "tokenizer.json").is_file() or not model.is_file() or not config.is_file():
        return False
    fields = read_json(config)
    if fields.get("legacy", True) or not fields.get("add_prefix_space", True):
        return False
    listed: list[Any] = []
    roles = directory / "special_tokens_map.json"
    for row in (fields, read_json(roles) if roles.is_file() else {}):
        for name, value in row.items():
            if name.endswith("_token"):
                listed.append(value)
            elif name == "additional_special_tokens" and isinstance(value, list):
                listed += value
    known = {token.get("content") if isinstance(token, dict) else token for token in listed}
    return tag not in known


def _named_class(directory: Path) -> Any:
    """Return the class that reads a bare SentencePiece model; None where there is a fast file.

    The class that the text backbone suggests would not put a space before the first word.

    Raises:
        AutoPruneError: if SentencePiece models cannot be read with what is installed.
    """
    import transformers

    model, config = directory / "tokenizer.model", directory / "tokenizer_config.json"
    if (directory / "tokenizer.json").is_file() or not model.is_file():
        return None
    try:
        from sentencepiece import sentencepiece_model_pb2  # noqa: F401
    except Exception as error:
        raise AutoPruneError(
            f"{model} cannot be read: the installed sentencepiece and protobuf do not fit "
            f"({type(error).__name__}): pip install 'sentencepiece<0.2.3'"
        ) from None
    name = read_json(config).get("tokenizer_class") if config.is_file() else None
    found = getattr(transformers, str(name).removesuffix("Fast"), None)
    return found or transformers.LlamaTokenizer
