"""Whether the tensors of a checkpoint are those that its configuration asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.errors import AutoPruneError
from autoprune.models.backbone import backbone_of
from autoprune.models.files import TensorHeader
from autoprune.models.precision import Storage

_LAYER_KEY = re.compile(r"(?:^|\.)layers\.(\d+)\.(.+)$")


def check_shapes(
    directory: Path,
    model: Any,
    headers: Mapping[str, TensorHeader],
    storage: Storage | None,
) -> None:
    """Check the decoder's tensors against the configuration, by the files' headers.

    Names of the decoder's tensors have changed over the years before ``layers.``, never after.

    Args:
        directory: of the files.
        model: what the configuration says, without weights.
        headers: of the files' tensors, by name.
        storage: of quantised weights, which stand there as several tensors each.

    Raises:
        AutoPruneError: for the first tensor that is not there, or is of another shape.
    """
    prefix = backbone_of(model).prefix + "."
    held: dict[str, TensorHeader] = {}
    for name, header in headers.items():
        if "vision" not in name and (match := _LAYER_KEY.search(name)):
            held[f"{match[1]}.{match[2]}"] = header
    count = len(model.get_decoder().layers)
    beyond = {int(key.partition(".")[0]) for key in held} - set(range(count))
    if beyond:
        raise AutoPruneError(
            f"{directory} holds layer {min(beyond)} and its config.json says {count} layers: use "
            "the config.json that belongs to these weights"
        )
    for name, parameter in model.named_parameters():
        if not name.startswith(prefix):
            continue
        tail = name.removeprefix(prefix)
        for part, shape in _expected(tail, tuple(parameter.shape), held, storage).items():
            if part not in held:
                raise AutoPruneError(
                    f"{directory} lacks layers.{part}, which its config.json asks for: use the "
                    "config.json that belongs to these weights"
                )
            if held[part].shape != shape:
                raise AutoPruneError(
                    f"layers.{part} in {held[part].file.name} has shape "
                    f"{list(held[part].shape)} and config.json says {list(shape)}: use the "
                    "config.json that belongs to these weights"
                )
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if not tied and not any(name.endswith("lm_head.weight") for name in headers):
        raise AutoPruneError(
            f"{directory} lacks lm_head.weight and its config.json does not tie the embeddings: "
            "set tie_word_embeddings to true if the head is the embedding"
        )


def _expected(
    tail: str, shape: tuple[int, ...], held: Mapping[str, Any], storage: Storage | None
) -> dict[str, tuple[int, ...]]:
    """Return the tensors that stand for a parameter, by name, and their shapes."""
    path, _, own = tail.rpartition(".")
    if storage is None or tail in held or own != "weight" or len(shape) != 2:
        return {tail: shape}
    if not storage.fits(shape[1]):
        return {tail: shape}
    return {f"{path}.{name}": part for name, (_, part) in storage.tensors(*shape).items()}


def check_loading_info(info: Mapping[str, Any], directory: Path) -> None:
    """Check that a load used every tensor and filled every parameter.

    Raises:
        AutoPruneError: naming the first tensor that was not.
    """
    for key, says in (
        ("mismatched_keys", "holds {} in another shape than its config.json says"),
        ("missing_keys", "lacks {}, which its config.json asks for"),
        ("unexpected_keys", "holds {}, for which its config.json has no place"),
    ):
        rows = [row if isinstance(row, str) else row[0] for row in info.get(key) or []]
        if names := sorted(rows):
            raise AutoPruneError(
                f"{directory} {says.format(names[0])}: use the config.json that belongs to "
                "these weights"
            )
