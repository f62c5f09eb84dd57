"""The files that let MLflow itself load a registered checkpoint and ask it questions."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autoprune.tracking.exported import ADDED_CODE, Exported

LOADER = "autoprune_served"
CODE = Path(__file__).with_name("served.py")
NEEDS = ("mlflow", "torch", "torchvision", "transformers", "safetensors", "pillow", "jinja2")


def write_flavour(folder: Path, exported: Exported, model_id: str, run_id: str) -> None:
    """Write what `mlflow.pyfunc.load_model` needs beside a checkpoint.

    ``MLmodel`` names the checkpoint's own directory as the model's data, so that its files are
    stored once and what is downloaded stays a checkpoint.

    Args:
        folder: where to write.
        exported: the checkpoint.
        model_id: of the logged model.
        run_id: of the run that made it.
    """
    from mlflow.models import Model
    from mlflow.pyfunc import add_to_model
    from mlflow.utils.environment import _PythonEnv

    code = folder / ADDED_CODE
    code.mkdir(parents=True)
    shutil.copyfile(CODE, code / f"{LOADER}.py")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in _needs(exported)))
    environment = _PythonEnv.current()
    environment.dependencies = ["-r requirements.txt"]
    environment.to_yaml(str(folder / "python_env.yaml"))
    model = Model(
        run_id=run_id,
        model_id=model_id,
        signature=_signature("vision_config" in exported.config),
        model_size_bytes=exported.nbytes,
    )
    add_to_model(model, loader_module=LOADER, code=ADDED_CODE, python_env="python_env.yaml")
    model.save(str(folder / "MLmodel"))


def _signature(vision: bool) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    from autoprune.tracking.served import NEW_TOKENS

    columns: list[Any] = [ColSpec("string", "question")]
    if vision:
        columns.append(ColSpec("binary", "image", required=False))
    return ModelSignature(
        inputs=Schema(columns),
        outputs=Schema([ColSpec("string")]),
        params=ParamSchema([ParamSpec("max_new_tokens", "long", NEW_TOKENS)]),
    )


def _needs(exported: Exported) -> Iterable[str]:
    more = ("torchao",) if exported.config.get("quantization_config") else ()
    for name in (*NEEDS, *more):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # none is needed that was not here
        yield f"{name}=={version.partition('+')[0]}"
