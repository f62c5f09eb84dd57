"""Run llama.cpp's own converter on a checkpoint, in a process of its own.

Run by path, never imported by AutoPrune. The converter knows a tokenizer by a hash of what it
makes of one text, and refuses any other, also one that was cut from a known tokenizer. Such a one
is given the splitting rule that its family uses; whether that is right, the proof decides.

    python convert_gguf.py CONVERTER_FOLDER RULE CONVERTER_ARGUMENTS...
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Hand all but the first two arguments to the converter."""
    folder, rule, *arguments = sys.argv[1:]
    sys.path.insert(0, folder)
    from conversion.base import TextModel  # type: ignore[import-not-found]

    known = TextModel.get_vocab_base_pre

    def rule_of(self: Any, tokenizer: Any) -> str:
        try:
            return str(known(self, tokenizer))
        except NotImplementedError:
            if not rule:
                raise
            return rule

    TextModel.get_vocab_base_pre = rule_of
    script = Path(folder) / "convert_hf_to_gguf.py"
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
