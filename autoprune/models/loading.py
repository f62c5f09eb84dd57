"""Loading a model by directory or name, after every cheap check has passed.

Nothing is ever loaded with weights missing, left over, of another shape or newly
initialised: each of these is an error of one line that says which and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoprune.errors import AutoPruneError
from autoprune.models.arrays import build_empty
from autoprune.models.convert.layouts import LAYOUTS
from autoprune.models.families import WRAPPERS, family_of, text_config, wrapper_of
from autoprune.models.files import (
    blaming,
    check_processor,
    checkpoint_identity,
    generation_settings,
    holds_weights,
    lacking,
    licence_of,
    read_config,
    resolve_ref,
    stored_dtype,
    tensor_headers,
)
from autoprune.models.fitting import check_loading_info, check_shapes
from autoprune.models.layers import resize_layers
from autoprune.models.precision import PRECISIONS, stored_precision
from autoprune.models.quantise import require_library
from autoprune.models.shape import BackboneSpec, model_class, spec_of
from autoprune.models.trace import check_row


@dataclass(frozen=True)
class Loaded:
    """A model in memory and where it came from.

    Attributes:
        model: in evaluation mode.
        processor: its processor, or its tokenizer for a plain language model.
        ref: the name it was asked for by.
        directory: where its files lie.
        identity: hash of its configuration and weights.
        config: its configuration.
        spec: its shape in numbers.
        licence: what its card states, if it has one.
    """

    model: Any
    processor: Any
    ref: str
    directory: Path
    identity: str
    config: Any
    spec: BackboneSpec
    licence: str | None

    @property
    def vision(self) -> bool:
        """Whether it reads images."""
        return wrapper_of(self.config).projector is not None


@dataclass(frozen=True)
class Inspected:
    """A checkpoint that passed every check that needs no weights in memory.

    Attributes:
        ref: the name it was asked for by.
        directory: where its files lie.
        config: its configuration.
        spec: its shape in numbers.
        identity: hash of its configuration and weights.
        pruned: whether it records per-layer shapes, as a checkpoint saved by AutoPrune does.
        licence: what its card states, if it has one.
        dtype: that most of its numbers are stored in, as torch names it, quantised ones aside;
            where there are no weights, that of its configuration.
        lacks: of weights, tokenizer and processor what is not there; never anything for a
            model that can be loaded.
        quantised: the precision of its backbone's linear weights, where they are quantised.
    """

    ref: str
    directory: Path
    config: Any
    spec: BackboneSpec
    identity: str
    pruned: bool
    licence: str | None
    dtype: str
    lacks: tuple[str, ...] = ()
    quantised: str | None = None

    @property
    def bytes(self) -> int:
        """What its weights take in ``dtype``, tied tensors once."""
        return self.spec.total_params * int(getattr(torch, self.dtype).itemsize)


def inspect_model(
    ref: str | Path,
    named: Mapping[str, Callable[[], Path]] | None = None,
    *,
    outline: bool = False,
) -> Inspected:
    """Check a checkpoint without loading it: files, headers and shapes.  Takes milliseconds.

    Args:
        ref: a directory, a name on the Hugging Face hub, or one of the ``named`` models.
        named: names that the caller knows, such as that of the embedded model.
        outline: let a directory without any weights pass, such as one that holds nothing but
            ``config.json``: its shape is known from that, and ``lacks`` says what is not.

    Raises:
        AutoPruneError: for the first thing that would keep it from loading.
    """
    directory = resolve_ref(ref, named)
    config = load_config(directory)
    if outline and not holds_weights(directory):
        return _outlined(str(ref), directory, config)
    quantised = stored_precision(read_config(directory), str(directory))
    if quantised is not None:
        require_library()
    headers = tensor_headers(directory)
    check_processor(directory, vision=wrapper_of(config).projector is not None)
    generation_settings(directory)
    storage = None if quantised is None else PRECISIONS[quantised].storage
    model = _empty(directory, config)
    check_shapes(directory, model, headers, storage)
    plain = list(headers.values())
    if quantised is not None:
        plain = [header for header in plain if header.dtype in ("F32", "F16", "BF16")]
    return Inspected(
        ref=str(ref),
        directory=directory,
        config=config,
        spec=spec_of(model),
        identity=checkpoint_identity(directory, headers.values()),
        pruned=bool(getattr(text_config(config), "autoprune", None)),
        licence=licence_of(directory),
        dtype=stored_dtype(plain),
        quantised=quantised,
    )


def _outlined(ref: str, directory: Path, config: Any) -> Inspected:
    """Return what a configuration alone says of a model."""
    dtype = getattr(config, "dtype", None) or getattr(text_config(config), "dtype", None)
    name = str(dtype).removeprefix("torch.")
    return Inspected(
        ref=ref,
        directory=directory,
        config=config,
        spec=spec_of(_empty(directory, config)),
        identity=checkpoint_identity(directory, ()),
        pruned=bool(getattr(text_config(config), "autoprune", None)),
        licence=licence_of(directory),
        dtype=name if isinstance(getattr(torch, name, None), torch.dtype) else "float32",
        lacks=lacking(directory, vision=wrapper_of(config).projector is not None),
    )


def _empty(directory: Path, config: Any) -> Any:
    """Build a checkpoint's model without weights, and blame its configuration if that fails."""
    with blaming(directory / "config.json"):
        return build_empty(config)


def load_config(directory: Path) -> Any:
    """Return a checkpoint's configuration.

    Raises:
        AutoPruneError: if the architecture or its text backbone is not supported.
    """
    from transformers import AutoConfig

    raw = read_config(directory)
    name = str(raw.get("model_type"))
    if name not in WRAPPERS:
        mend = f"use one of {', '.join(sorted(WRAPPERS))}"
        if name in LAYOUTS:
            mend = f"convert it first: autoprune convert {directory} -o DIR"
        raise AutoPruneError(f"architecture {name!r} of {directory} is not supported: {mend}")
    try:
        config = AutoConfig.from_pretrained(directory)
    except Exception as error:
        raise AutoPruneError(
            f"{directory / 'config.json'} is not valid ({_first_line(error)}): mend or replace it"
        ) from None
    wrapper_of(config)
    family_of(config)
    return config


def load_model(
    ref: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    *,
    named: Mapping[str, Callable[[], Path]] | None = None,
    attn_implementation: str | None = None,
) -> Loaded:
    """Load a model and its processor; a checkpoint saved by AutoPrune loads too.

    Args:
        ref: a directory, a name on the Hugging Face hub, or one of the ``named`` models.
        dtype: of the weights; a quantised checkpoint keeps its own.
        device: where they are put.
        named: names that the caller knows, such as that of the embedded model.
        attn_implementation: ``sdpa`` or ``eager``; None lets transformers choose.

    Raises:
        AutoPruneError: see :func:`inspect_model`; and if anything in the files is not used or
            anything in the model is not filled.
    """
    found = inspect_model(ref, named)
    processor = load_processor(found.directory, wrapper_of(found.config).projector is not None)
    base = model_class(found.config)
    kind = per_layer_class(base) if found.pruned else base
    extra = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    try:
        with quiet():
            model, info = kind.from_pretrained(
                found.directory,
                dtype=dtype if found.quantised is None else "auto",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
                **extra,
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise AutoPruneError(
            f"{found.directory} cannot be loaded ({_first_line(error)}): use the config.json "
            "that belongs to these weights"
        ) from None
    check_loading_info(info, found.directory)
    spec = spec_of(model)
    if spec != found.spec:
        raise AutoPruneError(
            f"{found.directory} loads with {spec.total_params:,} parameters where its config.json "
            f"says {found.spec.total_params:,}: set tie_word_embeddings as the weights are"
        )
    model = model.to(device).eval()
    check_row(model)
    return Loaded(
        model=model,
        processor=processor,
        ref=str(ref),
        directory=found.directory,
        identity=found.identity,
        config=model.config,
        spec=spec,
        licence=found.licence,
    )


def load_processor(directory: Path, vision: bool) -> Any:
    """Return the processor (or, for a plain language model, the tokenizer) of a checkpoint.

    Images are prepared by PIL where the processor has such a form, so that pixels do not
    depend on what else is installed.

    Raises:
        AutoPruneError: if it cannot be loaded.
    """
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

    try:
        if not vision:
            return AutoTokenizer.from_pretrained(directory)
        processor = AutoProcessor.from_pretrained(directory)
        # Asked of the whole processor, the backend would end up in the tokenizer's files too.
        processor.image_processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
        return processor
    except Exception as error:
        raise AutoPruneError(
            f"the processor of {directory} cannot be loaded ({_first_line(error)}): copy its "
            "files again"
        ) from None


def per_layer_class(base: Any) -> Any:
    """Return ``base`` as a class that takes per-layer shapes from its configuration."""

    class PerLayer(base):
        def __init__(self, config: Any, *args: Any, **kwargs: Any):
            super().__init__(config, *args, **kwargs)
            resize_layers(self)

    PerLayer.__name__ = PerLayer.__qualname__ = f"PerLayer{base.__name__}"
    return PerLayer


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and load reports off the terminal."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
