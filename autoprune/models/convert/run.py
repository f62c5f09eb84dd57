"""The whole conversion: checks, weights, processor, proof; the directory appears only then."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoprune.errors import AutoPruneError
from autoprune.models.convert.layout import Built, Layout, Source, check_requirements
from autoprune.models.convert.layouts import layout_of
from autoprune.models.convert.proof import LoadProof, prove_load
from autoprune.models.convert.tensors import check_plan, plan_tensors, shards_of, write_shards
from autoprune.models.files import blaming, licence_of, read_config, resolve_ref, tensor_headers
from autoprune.models.loading import quiet
from autoprune.models.output import check_output_dir, written_whole

SHARD_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Converted:
    """A checkpoint in transformers' form that stands on disk and was proved to load.

    Attributes:
        path: where it stands.
        layout: the original ``model_type``.
        model_class: the transformers class that loads it.
        parameters: of the whole model.
        nbytes: of its weights on disk.
        shards: files that hold them.
        notes: what was taken from elsewhere than the original files; sentences.
        proof: what a fresh process found.
    """

    path: Path
    layout: str
    model_class: str
    parameters: int
    nbytes: int
    shards: int
    notes: tuple[str, ...]
    proof: LoadProof

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "path": str(self.path)}


def convert_checkpoint(
    ref: str | Path,
    out_dir: str | Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    on_stage: Callable[[str], None] = lambda text: None,
) -> Converted:
    """Turn a checkpoint in its authors' layout into one of a stock transformers class.

    Weights keep their values and types; about one shard of them is in memory at a time.  The
    proof, in a process of its own, loads the whole model.

    Args:
        ref: a directory, or a name on the Hugging Face hub.
        out_dir: a directory that does not exist yet, or is empty.
        shard_bytes: size that a written file does not exceed, unless one tensor does.
        on_stage: told in words what is being done.

    Returns:
        Where it stands, and what the proof found.

    Raises:
        AutoPruneError: if ``ref`` is in no known layout or damaged, ``out_dir`` cannot be used,
            or the result is not proved; then nothing is left behind.
    """
    import transformers

    out = check_output_dir(out_dir)
    directory = resolve_ref(ref)
    config = read_config(directory)
    layout = layout_of(directory, config)
    source = Source(directory, config, tensor_headers(directory))
    check_requirements(source, layout.requirements)
    with quiet(), blaming(directory / "config.json"):
        built = layout.build(source)
        model = _meta_model(getattr(transformers, layout.model_class), built.config)
    targets = plan_tensors(source, layout, built.rows)
    check_plan(source, targets, model)
    shards = shards_of(targets, shard_bytes)
    nbytes = sum(target.nbytes for target in targets)
    _check_room(out, nbytes)

    def on_shard(place: int) -> None:
        size = sum(target.nbytes for target in shards[place])
        on_stage(
            f"file {place + 1} of {len(shards)}: {len(shards[place])} tensors, "
            f"{size / 2**20:,.0f} MiB"
        )

    with written_whole(out) as work:
        with quiet():
            _write_rest(layout, built, source, str(ref), work)
        digests = write_shards(source, layout, shards, work, on_shard)
        on_stage("loading it in a fresh process")
        proof = prove_load(work, layout.model_class, digests)
    return Converted(
        path=out,
        layout=layout.model_type,
        model_class=layout.model_class,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        nbytes=nbytes,
        shards=len(shards),
        notes=built.notes,
        proof=proof,
    )


def _check_room(out: Path, nbytes: int) -> None:
    there = next(parent for parent in out.parents if parent.exists())
    free = shutil.disk_usage(there).free
    if free < nbytes:
        raise AutoPruneError(
            f"output {out} needs {nbytes / 2**30:.1f} GiB where {free / 2**30:.1f} GiB are free: "
            "free some space or name another directory"
        )


def _meta_model(model_class: Any, config: Any) -> Any:
    import torch

    with torch.device("meta"):
        return model_class(config)


def _write_rest(layout: Layout, built: Built, source: Source, ref: str, work: Path) -> None:
    """Write everything but the weights."""
    from transformers import GenerationConfig

    built.config.architectures = [layout.model_class]
    built.config.save_pretrained(work)
    built.processor.save_pretrained(work)
    with blaming(source.directory / "generation_config.json"):
        GenerationConfig(**built.generation).save_pretrained(work)
    licence = licence_of(source.directory)
    head = f"---\nlicense: {licence}\n---\n\n" if licence else ""
    notes = "".join(f"- {note}.\n" for note in built.notes)
    (work / "README.md").write_text(
        f"{head}{Path(ref).name or ref}, converted by AutoPrune from its authors' layout "
        f"({layout.model_type}) to transformers' {layout.model_class}. The weights are "
        f"unchanged.\n\nWhat the original files do not carry:\n\n{notes}",
        encoding="utf-8",
    )
