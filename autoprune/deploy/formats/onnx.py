"""ONNX: the graphs of a whole model, proved on ONNX Runtime against the model itself."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from autoprune.deploy.formats.format import Outline, Stage, Written, require_libraries
from autoprune.deploy.readme import Loading
from autoprune.errors import AutoPruneError

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
RUNNER, SETTINGS, FOLDER = "run_onnx.py", "onnx.json", "onnx"
TOLERANCE = 1e-4
"""Largest difference of logits relative to the largest logit; both sides are float32."""
_HERE = Path(__file__).parent
_STEPS, _NEW_TOKENS = 4, 8


class Onnx:
    """Graphs for ONNX Runtime, with a script that runs them."""

    name = "onnx"

    def check(self, outline: Outline) -> None:
        """Check that the format holds a model; see :class:`~.format.Format`."""
        from autoprune.models.families import wrapper_of
        from autoprune.models.precision import PRECISIONS

        require_libraries(self.name, {name: name for name in LIBRARIES})
        wrapper = wrapper_of(outline.config)
        if wrapper.whole:
            raise AutoPruneError(
                f"format onnx cannot hold {outline.name}: its graphs pass token embeddings to the "
                f"decoder and nothing else, and {wrapper.model_type} needs more (tiles of an "
                "image, positions or masks of its own); use --format hf"
            )
        stored = PRECISIONS.get(outline.precision)
        if stored is not None and stored.storage is not None:
            raise AutoPruneError(
                f"format onnx cannot hold {outline.name}: its weights are {outline.precision}, and "
                "graphs are written in float32; choose a trial that is not quantised, or "
                "--format hf"
            )

    def write(self, checkpoint: Path, work: Path, on_stage: Stage) -> Written:
        """Write and prove the graphs; see :class:`~.format.Format`."""
        import torch

        from autoprune.deploy.formats.graphs import cache_shapes, write_graphs
        from autoprune.models.loading import load_model, quiet
        from autoprune.models.proof import probe_inputs

        loaded = load_model(checkpoint, torch.float32)
        model = loaded.model
        inputs = probe_inputs(model, loaded.processor)
        on_stage("trace the graphs")
        (work / FOLDER).mkdir()
        names = write_graphs(model, inputs.get("pixel_values"), work / FOLDER)
        settings = {
            "graphs": names,
            "cache": [[c.heads, c.key, c.value] for c in cache_shapes(model)],
            "image_token_id": getattr(model.config, "image_token_id", None),
            **_tokens(model),
        }
        (work / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
        (work / RUNNER).write_text((_HERE / RUNNER).read_text())
        with quiet():
            model.config.save_pretrained(work)
            model.generation_config.save_pretrained(work)
            loaded.processor.save_pretrained(work)
        on_stage("run the graphs in a fresh process, and compare")
        found = _prove(model, inputs, settings, work)
        uniform = len({tuple(row) for row in settings["cache"]}) == 1
        loading = _loading(loaded.vision, uniform, _traced_below(model.config))
        return Written(loading, _proved(found, loaded.vision), found)


def _tokens(model: Any) -> dict[str, Any]:
    """Return the tokens that generation needs to know."""
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else list(ends) if isinstance(ends, (list, tuple)) else [ends]
    pad = model.generation_config.pad_token_id
    marks = (getattr(model.config, f"{kind}_token_id", None) for kind in ("image", "video"))
    return {
        "eos_token_ids": ends,
        "pad_token_id": pad if pad is not None else (ends[0] if ends else 0),
        "never": [mark for mark in marks if mark is not None],
    }


def _traced_below(config: Any) -> int | None:
    """Return the length from which rotary positions are others; a trace knows those below."""
    from autoprune.models.families import text_config

    text = text_config(config)
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") not in ("dynamic", "longrope"):
        return None
    own = rope.get("original_max_position_embeddings")
    own = own or getattr(text, "original_max_position_embeddings", None)
    return int(own or text.max_position_embeddings)


def _prove(
    model: Any, inputs: dict[str, Any], settings: dict[str, Any], work: Path
) -> dict[str, float]:
    """Run the graphs in a fresh process on prompts and cached steps, and compare.

    Raises:
        AutoPruneError: logits or generated tokens differ.
    """
    import numpy as np
    import torch

    from autoprune.models.fresh import UNPROVED, run_fresh

    arrays = {
        f"{case}.{name}": value
        for case, given in _cases(inputs, settings).items()
        for name, value in _said(model, given, settings).items()
    }
    with tempfile.TemporaryDirectory(prefix="autoprune-") as folder:
        scratch = Path(folder)
        np.savez(scratch / "reference.npz", **arrays)
        request = {
            "directory": str(work),
            "arrays": str(scratch / "reference.npz"),
            "cases": sorted({name.partition(".")[0] for name in arrays}),
            "threads": torch.get_num_threads(),
        }
        path = scratch / "request.json"
        path.write_text(json.dumps(request))
        (found,) = run_fresh(_HERE / "prove_onnx.py", [path], scratch, "the exported model")
    fault = None
    if not found["finite"]:
        fault = "its logits are not finite"
    elif max(found["prefill"], found["steps"]) > TOLERANCE * found["scale"]:
        fault = (
            f"logits differ by {found['prefill']:.1e} on prompts and {found['steps']:.1e} on "
            f"single steps, of {found['scale']:.3g}"
        )
    elif not found["tokens_equal"]:
        fault = "it generates other tokens"
    if fault:
        raise AutoPruneError(f"the graphs are not the model ({fault}): {UNPROVED}")
    return {name: float(found[name]) for name in ("prefill", "steps", "scale")}


def _cases(inputs: dict[str, Any], settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return prompts: a padded batch, one row of it, and a longer one without an image."""
    import torch

    names = ("input_ids", "attention_mask", "pixel_values")
    batch = {name: inputs[name] for name in names if name in inputs}
    rows = len(batch["input_ids"])
    first = {
        name: value[: len(value) // rows] if name == "pixel_values" else value[:1]
        for name, value in batch.items()
    }
    ids = first["input_ids"][0]
    words = ids[ids != settings["image_token_id"]] if settings["image_token_id"] else ids
    text = words.repeat(3)[None]
    return {
        "batch": batch,
        "row": first,
        "text": {"input_ids": text, "attention_mask": torch.ones_like(text)},
    }


def _said(model: Any, given: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return what the model itself says to a prompt and to single steps behind it, as arrays."""
    import torch

    ids, mask = given["input_ids"], given["attention_mask"]
    generator = torch.Generator().manual_seed(0)
    words = torch.tensor([i for i in ids.unique().tolist() if i not in settings["never"]])
    steps = words[torch.randint(len(words), (len(ids), _STEPS), generator=generator)]
    with torch.no_grad():
        out = model(**given, position_ids=_positions(mask), use_cache=True)
        logits, past, made = out.logits, out.past_key_values, []
        grown = mask
        for step in range(_STEPS):
            grown = torch.cat([grown, torch.ones_like(grown[:, :1])], dim=1)
            out = model(
                input_ids=steps[:, step : step + 1],
                attention_mask=grown,
                position_ids=_positions(grown)[:, -1:],
                past_key_values=past,
                use_cache=True,
            )
            made.append(out.logits[:, 0])
            past = out.past_key_values
        options = {"suppress_tokens": settings["never"]} if settings["never"] else {}
        tokens = model.generate(
            **given,
            max_new_tokens=_NEW_TOKENS,
            do_sample=False,
            pad_token_id=settings["pad_token_id"],
            **options,
        )[:, ids.shape[1] :]
    said = {**given, "logits": logits, "steps": steps, "step_logits": torch.stack(made, dim=1)}
    said["tokens"] = tokens
    return {name: value.cpu().numpy() for name, value in said.items()}


def _positions(mask: Any) -> Any:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _loading(vision: bool, uniform: bool, traced_below: int | None) -> Loading:
    image = ", images=[image]" if vision else ""
    pixels = ', made["pixel_values"]' if vision else ""
    kind = "AutoProcessor" if vision else "AutoTokenizer"
    layout = (
        "The graphs in `onnx/` are named and laid out as transformers.js and optimum expect them."
        if uniform
        else "The graphs in `onnx/` are named as those of transformers.js and optimum. Their "
        "layers keep different numbers of heads in the cache (`onnx.json` lists them), so a "
        "program that takes these from `config.json` alone cannot run them; the script here can."
    )
    reach: tuple[str, ...] = ()
    if traced_below is not None:
        reach = (
            f"Beyond {traced_below:,} tokens this model counts positions otherwise; the graphs "
            "were traced below that and are not the model above it.",
        )
    return Loading(
        format="onnx",
        library="onnx",
        needs="Numpy, onnxruntime and transformers (for the processor) are enough; `directory` is "
        f'this folder. `python run_onnx.py "…"{" --image photo.png" * vision}` asks it a question.',
        code=(
            "import sys\n\n"
            "sys.path.insert(0, directory)\n"
            "from run_onnx import Model\n"
            f"from transformers import {kind}\n\n"
            "model = Model(directory)\n"
            f"processor = {kind}.from_pretrained(directory)\n"
            f'made = processor(text=[text]{image}, return_tensors="np")\n'
            f'tokens = model.generate(made["input_ids"], made["attention_mask"]{pixels})\n'
        ),
        notes=(
            layout + " Batch and lengths are free; weights and cache are float32.",
            "Before it was written the graphs were run by ONNX Runtime in a fresh process: prompts "
            f"{'with and without images, ' * vision}padded and not, and single steps behind them; "
            "logits and generated tokens were compared with those of the model itself.",
            *reach,
        ),
    )


def _proved(found: dict[str, float], vision: bool) -> tuple[str, ...]:
    kinds = "prompts with and without images" if vision else "prompts"
    return (
        f"run by ONNX Runtime in a fresh process: logits differ by at most {found['prefill']:.1e} "
        f"on {kinds} and by {found['steps']:.1e} on single cached steps, of {found['scale']:.3g}; "
        "the generated tokens are the same",
    )
