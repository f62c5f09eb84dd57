"""Saving a pruned model so that it loads anywhere, and proving it before saying so.

A checkpoint is a normal Hugging Face directory.  Where all layers have one shape that stock
classes can hold, there is nothing more to it: it loads with plain ``from_pretrained``.
Otherwise it has one more file: the code that gives a stock model its per-layer shapes, named
in the configuration's ``auto_map``.  Such a checkpoint loads with ``trust_remote_code=True``
wherever torch and transformers are, without AutoPrune.  A loader that does not run that code
fails on a shape rather than loading wrong weights.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from autoprune.errors import AutoPruneError
from autoprune.models.backbone import backbone_of
from autoprune.models.families import text_config, wrapper_of
from autoprune.models.loading import quiet
from autoprune.models.output import check_output_dir, written_whole
from autoprune.models.proof import Reference, ReloadProof, prove_reload, reference_of
from autoprune.models.shape import model_class, spec_of

CODE_FILE = "modeling_autoprune.py"
_COPIED_FROM = "# Everything below is copied into the modelling file of saved checkpoints.\n"


@dataclass(frozen=True)
class Saved:
    """A checkpoint that stands on disk and was proved to reload."""

    path: Path
    proof: ReloadProof


def save_checkpoint(
    model: Any,
    processor: Any,
    out_dir: str | Path,
    card: Mapping[str, str | bytes] | None = None,
    *,
    inputs: Mapping[str, torch.Tensor] | None = None,
) -> Saved:
    """Save a model, prove that it reloads, and only then put it in place.

    Args:
        model: pruned by surgery (or dense), adapters merged; saved in its own dtype; not changed.
            Its configuration says which of the two forms it is saved in.
        processor: its processor, or its tokenizer for a plain language model.
        out_dir: a directory that does not exist yet, or is empty.
        card: files to put beside the weights, by name: ``plan.json``, ``recipe.json``,
            ``README.md`` and the like.  A README that says how to load is written if none is
            given.
        inputs: what the proof runs on; None makes padded, random ones with images.

    Returns:
        Where it stands, and what the proof found.

    Raises:
        AutoPruneError: if ``out_dir`` cannot be used, or the reload is not proved; then nothing
            is left behind.
    """
    out = check_output_dir(out_dir)
    card = dict(card or {})
    _check_card(card)
    _check_record(model)
    reference = reference_of(model, processor, inputs)
    with written_whole(out) as work:
        _write(model, processor, work, card)
        proof = prove_reload(work, reference)
    return Saved(out, proof)


def how_to_load(config: Any) -> str:
    """Return the lines of Python that load a saved checkpoint, for its card."""
    auto = auto_class(config)
    other = "AutoProcessor" if wrapper_of(config).projector else "AutoTokenizer"
    more = ", trust_remote_code=True" if records_shapes(config) else ""
    quantised = getattr(config, "quantization_config", None) is not None
    needs = "# pip install torchao  (it reads the quantised weights)\n" if quantised else ""
    return (
        f"{needs}from transformers import {auto}, {other}\n\n"
        f"model = {auto}.from_pretrained(directory{more})\n"
        f"processor = {other}.from_pretrained(directory)\n"
    )


def records_shapes(config: Any) -> bool:
    """Whether a configuration records per-layer shapes, which only its own code can build."""
    return bool(getattr(text_config(config), "autoprune", None))


def auto_class(config: Any) -> str:
    """Return the transformers auto class that loads a checkpoint of ``config``."""
    vision = wrapper_of(config).projector is not None
    return "AutoModelForImageTextToText" if vision else "AutoModelForCausalLM"


def modelling_code(config: Any) -> tuple[str, str]:
    """Return the text of the checkpoint's modelling file and the name of its class."""
    here = resources.files("autoprune.models")
    layers = here.joinpath("layers.py").read_text().partition(_COPIED_FROM)[2].strip("\n")
    template = here.joinpath("templates", f"{CODE_FILE}.txt").read_text()
    base = model_class(config).__name__
    name = f"AutoPrune{base}"
    values = {"base": base, "auto": auto_class(config), "name": name, "layers": f"\n{layers}\n"}
    for key, value in values.items():
        template = template.replace(f"{{{key}}}", value)
    return template, name


def _write(model: Any, processor: Any, work: Path, card: Mapping[str, str | bytes]) -> None:
    """Write everything of a checkpoint into ``work``."""
    own_code = records_shapes(model.config)
    # transformers notes dtype and class in the configuration it saves: let it have a copy.
    kept, model.config = model.config, copy.deepcopy(model.config)
    try:
        with quiet():
            # Code in a checkpoint gets the tensors under the names they have in memory, so they
            # must not be saved under those of older releases, which stock classes go on reading.
            model.save_pretrained(work, save_original_format=not own_code)
            processor.save_pretrained(work)
    finally:
        model.config = kept
    readme = "A model pruned by AutoPrune.\n"
    if own_code:
        _add_code(model.config, work)
        readme = (
            "A model pruned by AutoPrune. Its layers have different shapes, so it brings its own "
            "loading code.\n"
        )
    readme += f"\n```python\n{how_to_load(model.config)}```\n"
    for file, content in {"README.md": readme, **card}.items():
        data = content.encode() if isinstance(content, str) else content
        (work / file).write_bytes(data)


def _check_card(card: Mapping[str, str | bytes]) -> None:
    reserved = {CODE_FILE, "config.json", "generation_config.json"}
    for name in card:
        if Path(name).name != name or name in reserved or name.endswith(".safetensors"):
            raise AutoPruneError(f"card file {name!r} would overwrite the checkpoint: rename it")


def _add_code(config: Any, work: Path) -> None:
    """Put the loading code beside the weights, and name it in the configuration."""
    code, name = modelling_code(config)
    (work / CODE_FILE).write_text(code)
    path = work / "config.json"
    values = json.loads(path.read_text())
    values["architectures"] = [name]
    values["auto_map"] = {auto_class(config): f"{CODE_FILE.removesuffix('.py')}.{name}"}
    path.write_text(json.dumps(values, indent=2) + "\n")


def _check_record(model: Any) -> None:
    """Check that a model is what its configuration will say of it.

    Raises:
        AutoPruneError: if it carries adapters, or has other layers than its configuration.
    """
    if hasattr(model, "peft_config"):
        raise AutoPruneError("the model still carries adapters: merge them before saving")
    shapes = backbone_of(model).shapes
    if records_shapes(model.config):
        record = text_config(model.config).autoprune["layers"]
        same = [list(row) for row in record] == [[s.heads, s.kv_heads, s.channels] for s in shapes]
    else:
        same = shapes == spec_of(model.config).layers
    if not same:
        raise AutoPruneError(
            "the model's layers are not those its configuration records: build it by surgery"
        )


__all__ = [
    "CODE_FILE",
    "Reference",
    "ReloadProof",
    "Saved",
    "auto_class",
    "check_output_dir",
    "how_to_load",
    "modelling_code",
    "prove_reload",
    "records_shapes",
    "reference_of",
    "save_checkpoint",
]
