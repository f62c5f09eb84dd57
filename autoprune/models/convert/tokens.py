"""The tokenizer of a checkpoint in its authors' layout, with the tokens that a processor needs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.errors import AutoPruneError
from autoprune.models.files import check_processor

_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def load_tokenizer(directory: Path, text_config: Any, named: Mapping[str, str]) -> Any:
    """Return a fast tokenizer that knows the named tokens.

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
    from transformers import AutoTokenizer

    check_processor(directory, vision=False)
    with tempfile.TemporaryDirectory(prefix="autoprune-tokenizer-") as scratch:
        for name in _FILES:
            if (directory / name).is_file():
                shutil.copy(directory / name, scratch)
        text_config.save_pretrained(scratch)
        try:
            tokenizer = AutoTokenizer.from_pretrained(scratch, extra_special_tokens=dict(named))
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
    for token in named.values():
        ids = tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise AutoPruneError(
                f"the tokenizer in {directory} splits {token} into {len(ids)} tokens: copy its "
                "files again"
            )
    return tokenizer
