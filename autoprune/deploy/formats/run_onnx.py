"""Runs this model on ONNX Runtime.

Written by AutoPrune beside the graphs it belongs to; it needs numpy, onnxruntime and, for the
processor, transformers.  No torch takes part in the computation.

    python run_onnx.py "What is on the picture?" --image photo.png

    from run_onnx import Model

    model = Model("this-directory")
    tokens = model.generate(**processor(...))

The graphs are laid out as transformers.js and optimum do:

    onnx/embed_tokens.onnx          input_ids [B, T] -> inputs_embeds [B, T, H]
    onnx/vision_encoder.onnx        pixel_values [I, 3, height, width] -> image_features [I, N, H]
    onnx/decoder_model_merged.onnx  inputs_embeds [B, T, H], attention_mask [B, K + T],
                                    position_ids [B, T], past_key_values.* [B, heads, K, width]
                                    -> logits [B, T, V], present.* [B, heads, K + T, width]

K is 0 for a prompt and grows with each step.  Heads and width may differ from layer to layer:
``onnx.json`` lists them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

FOLDER = "onnx"


class Model:
    """The graphs of a model, and how they are put together."""

    def __init__(
        self, directory: Any, threads: int = 0, providers: Any = ("CPUExecutionProvider",)
    ) -> None:
        self.directory = Path(directory)
        self.settings = json.loads((self.directory / "onnx.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.graphs = {
            name: onnxruntime.InferenceSession(
                str(self.directory / FOLDER / f"{name}.onnx"), options, providers=list(providers)
            )
            for name in self.settings["graphs"]
        }

    def embed(self, input_ids: Any, pixel_values: Any = None) -> np.ndarray:
        """Return what the decoder reads, [B, T, H]: token embeddings with image features in."""
        ids = np.asarray(input_ids, dtype=np.int64)
        embeds: np.ndarray
        (embeds,) = self.graphs["embed_tokens"].run(None, {"input_ids": ids})
        if pixel_values is None:
            return embeds
        pixels = np.asarray(pixel_values, dtype=np.float32)
        (features,) = self.graphs["vision_encoder"].run(None, {"pixel_values": pixels})
        places = ids == self.settings["image_token_id"]
        rows = features.reshape(-1, features.shape[-1])
        if int(places.sum()) != len(rows):
            raise ValueError(f"{int(places.sum())} image tokens for {len(rows)} image features")
        embeds = embeds.copy()
        embeds[places] = rows
        return embeds

    def empty(self, batch: int) -> dict[str, np.ndarray]:
        """Return the cache before the first token."""
        return {
            f"past_key_values.{layer}.{kind}": np.zeros((batch, heads, 0, width), np.float32)
            for layer, (heads, *widths) in enumerate(self.settings["cache"])
            for kind, width in zip(("key", "value"), widths, strict=True)
        }

    def decode(self, embeds: np.ndarray, attention_mask: Any, past: Any = None) -> tuple[Any, Any]:
        """Return logits [B, T, V] and the cache with these T positions in it.

        ``attention_mask`` [B, K + T] covers what is in the cache already, and is 0 at padding.
        """
        past = self.empty(len(embeds)) if past is None else past
        mask = np.asarray(attention_mask, dtype=np.int64)
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -embeds.shape[1] :]
        graph = self.graphs["decoder_model_merged"]
        made = graph.run(
            None,
            {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions, **past},
        )
        named = dict(zip((output.name for output in graph.get_outputs()), made, strict=True))
        logits = named.pop("logits")
        return logits, {k.replace("present", "past_key_values", 1): v for k, v in named.items()}

    def generate(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        pixel_values: Any = None,
        max_new_tokens: int = 32,
        **_: Any,
    ) -> np.ndarray:
        """Return the likeliest next tokens [B, N]; a row that has ended is padded.

        With several rows of other lengths pad on the left.
        """
        ids = np.asarray(input_ids, dtype=np.int64)
        mask = np.ones_like(ids) if attention_mask is None else np.asarray(attention_mask)
        ended = np.zeros(len(ids), dtype=bool)
        embeds, past, found = self.embed(ids, pixel_values), None, []
        for _step in range(max_new_tokens):
            logits, past = self.decode(embeds, mask, past)
            last = logits[:, -1].copy()
            last[:, self.settings["never"]] = -np.inf  # a written image would have no pixels
            tokens = np.where(ended, self.settings["pad_token_id"], last.argmax(axis=-1))
            found.append(tokens)
            ended |= np.isin(tokens, self.settings["eos_token_ids"])
            if ended.all():
                break
            mask = np.concatenate([mask, np.ones((len(ids), 1), mask.dtype)], axis=1)
            embeds = self.embed(tokens[:, None])
        return np.stack(found, axis=1)


def main() -> None:
    """Answer one question."""
    from transformers import AutoProcessor, AutoTokenizer

    parser = argparse.ArgumentParser(description="Ask this model a question.")
    parser.add_argument("question")
    parser.add_argument("--image", help="a picture to ask about")
    parser.add_argument("--tokens", type=int, default=32, help="longest answer")
    typed = parser.parse_args()
    here = Path(__file__).parent
    model = Model(here)
    if "vision_encoder" not in model.graphs:
        processor = tokenizer = AutoTokenizer.from_pretrained(here)
    else:
        processor = AutoProcessor.from_pretrained(here)
        tokenizer = processor.tokenizer
    content: list[dict[str, Any]] = [{"type": "text", "text": typed.question}]
    more: dict[str, Any] = {}
    if typed.image:
        from PIL import Image

        content.insert(0, {"type": "image"})
        more["images"] = [Image.open(typed.image).convert("RGB")]
    if getattr(processor, "chat_template", None):
        asked: Any = [{"role": "user", "content": content if more else typed.question}]
        text = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    else:
        text = (f"{processor.image_token} " if more else "") + typed.question
    made = processor(text=[text], return_tensors="np", **more)
    tokens = model.generate(
        made["input_ids"],
        made["attention_mask"],
        made.get("pixel_values"),
        max_new_tokens=typed.tokens,
    )
    print(tokenizer.decode(tokens[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()
