"""The entry point by which lmms-eval learns of AutoPrune's model; imported in every run of it."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Return the registration, ``lmms_eval.models.registry_v2.ModelManifest``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="autoprune", simple_class_path="autoprune.deploy.lmms_model.AutoPruneModel"
    )
