"""A registered checkpoint that answers questions: the code that MLflow runs to serve it.

Copied beside the checkpoint, never imported by AutoPrune: it must work where AutoPrune is not
installed, so it imports nothing but torch, transformers and what they need.

A row has a ``question`` and, where the model reads images, an ``image``: the bytes of a PNG or
JPEG file (base64 text in a request over HTTP). The answer is the model's own, greedy.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

NEW_TOKENS = 64
FORMS = {"PaliGemmaProcessor": "{image}answer en {question}"}  # that have no chat template


class Answerer:
    """A model and its processor behind ``predict``."""

    def __init__(self, directory: str) -> None:
        import torch
        import transformers

        config = json.loads((Path(directory) / "config.json").read_text())
        own_code = bool(config.get("auto_map"))
        self.vision = "vision_config" in config
        auto = "AutoModelForImageTextToText" if self.vision else "AutoModelForCausalLM"
        other = "AutoProcessor" if self.vision else "AutoTokenizer"
        device = "cuda" if torch.cuda.is_available() else "cpu"
        load = getattr(transformers, auto).from_pretrained
        model = load(directory, dtype="auto", trust_remote_code=own_code)
        self.model: Any = model.to(device).eval()
        load = getattr(transformers, other).from_pretrained
        self.processor: Any = load(directory, trust_remote_code=own_code)
        self.tokenizer: Any = getattr(self.processor, "tokenizer", self.processor)

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """Return an answer a row.

        Args:
            data: a table (pandas) or rows (dicts) with ``question`` and ``image``.
            params: ``max_new_tokens``.

        Raises:
            ValueError: a row has no question, an image that cannot be read, or one for a model
                that reads none.
        """
        limit = int((params or {}).get("max_new_tokens", NEW_TOKENS))
        return [self._answer(row.get("question"), row.get("image"), limit) for row in _rows(data)]

    def _answer(self, question: Any, image: Any, limit: int) -> str:
        import torch

        if not isinstance(question, str) or not question.strip():
            raise ValueError("a row has no question: give text in column 'question'")
        images = [] if _empty(image) else [_picture(image)]
        if images and not self.vision:
            raise ValueError("this model reads no images: leave column 'image' out")
        text = self._prompt(question, len(images))
        inputs = self.processor(
            text=[text],
            return_tensors="pt",
            **self._options(text),
            **({"images": [images]} if images else {}),
        )
        weight = next(self.model.parameters())
        inputs = {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        with torch.no_grad():
            made = self.model.generate(
                **inputs,
                max_new_tokens=limit,
                do_sample=False,
                num_beams=1,
                pad_token_id=self._pad(),
            )
        new = made[0, inputs["input_ids"].shape[1] :]
        return str(self.tokenizer.decode(new, skip_special_tokens=True)).strip()

    def _prompt(self, question: str, images: int) -> str:
        form = self._form()
        if form is not None:
            return form.format(image=self.processor.image_token * images, question=question)
        content: Any = question
        if self.vision:
            content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
        asked = [{"role": "user", "content": content}]
        return str(
            self.processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        )

    def _form(self) -> str | None:
        if getattr(self.processor, "chat_template", None) is not None:
            return None
        return FORMS.get(type(self.processor).__name__, "{image}{question}")

    def _options(self, text: str) -> dict[str, Any]:
        if self._form() is not None:
            return {}
        start = self.tokenizer.bos_token  # a template may have written it already
        return {"add_special_tokens": not (start is not None and text.startswith(start))}

    def _pad(self) -> int | None:
        ends = self.model.generation_config.eos_token_id
        if self.tokenizer.pad_token_id is not None or ends is None:
            return self.tokenizer.pad_token_id  # type: ignore[no-any-return]
        return int(ends[0] if isinstance(ends, list) else ends)


def _rows(data: Any) -> Iterable[Mapping[str, Any]]:
    if hasattr(data, "to_dict") and hasattr(data, "columns"):
        return data.to_dict("records")  # type: ignore[no-any-return]
    return [data] if isinstance(data, Mapping) else data


def _empty(image: Any) -> bool:
    return image is None or image != image or (isinstance(image, (bytes, str)) and not image)


def _picture(image: Any) -> Any:
    """Return the picture of a file's bytes, as they are or as base64 text."""
    from PIL import Image

    try:
        raw = base64.b64decode(image, validate=True) if isinstance(image, str) else bytes(image)
        return Image.open(io.BytesIO(raw)).convert("RGB")
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"an image cannot be read ({error}): give a PNG's or JPEG's bytes"
        ) from None


def _load_pyfunc(path: str) -> Answerer:
    """Return the model of a directory; MLflow calls this by name."""
    return Answerer(path)
