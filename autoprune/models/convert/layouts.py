"""The table of layouts, keyed on the ``model_type`` of the original configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.errors import AutoPruneError
from autoprune.models.convert import bunny, internvl
from autoprune.models.convert.layout import Layout

LAYOUTS: dict[str, Layout] = {row.model_type: row for row in (bunny.LAYOUT, internvl.LAYOUT)}

PUBLISHED_TWICE = {"llava": ("mm_vision_tower", "llava-hf/llava-1.5-7b-hf")}
"""Authors' layouts under a ``model_type`` of transformers: the key that tells them, and what to use
instead."""


def layout_of(directory: Path, config: Mapping[str, Any]) -> Layout:
    """Return the layout of a checkpoint.

    Raises:
        AutoPruneError: if it is already in transformers' form, or in no layout of the table.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    name = str(config.get("model_type"))
    if name in LAYOUTS:
        return LAYOUTS[name]
    known = ", ".join(f"{row.model_type} ({row.example})" for row in LAYOUTS.values())
    mark, instead = PUBLISHED_TWICE.get(name, (None, None))
    if mark is not None and mark in config:
        raise AutoPruneError(
            f"{directory} is {name} in its authors' layout, which is published in transformers' "
            f"form too: use that, such as {instead} (convert knows {known})"
        )
    if name in CONFIG_MAPPING_NAMES:
        raise AutoPruneError(
            f"{directory} is already in transformers' form (model_type {name!r}): use it as it is"
        )
    raise AutoPruneError(
        f"{directory} has the unknown layout {name!r}: convert knows {known}; use another "
        "checkpoint, or one in transformers' form"
    )
