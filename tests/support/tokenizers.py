"""Tiny tokenizers of the kinds that llama.cpp reads: letters and bytes, split as families do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from support.originals import TEXT, _sentence_pieces

_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_fallback() -> PreTrainedTokenizerFast:
    """Single letters and bytes behind a start token, as LLaVA-1.5's is."""
    core = _sentence_pieces()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def byte_level() -> PreTrainedTokenizerFast:
    """A byte-level BPE that splits as Qwen's, with other words."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(TEXT, trainer)
    core.add_special_tokens(["<|endoftext|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def save_sentencepiece(directory: Path, *, spaced: bool) -> PreTrainedTokenizerFast:
    """A SentencePiece model of letters and bytes, saved as a file too.

    With ``spaced`` a text begins with a space, as for Phi-3; for Gemma it does not.
    """
    import sentencepiece

    with (directory / "tokenizer.model").open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*TEXT, "what is the digit on the left"] * 20),
            model_writer=stream,
            vocab_size=330,
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    made: Any = sentencepiece.SentencePieceProcessor(str(directory / "tokenizer.model"))
    pieces = {made.IdToPiece(i): i for i in range(made.vocab_size())}
    merges = [
        (piece[:cut], piece[cut:])
        for piece, _ in sorted(pieces.items(), key=lambda item: item[1])
        if not piece.startswith("<")
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    core = Tokenizer(models.BPE(pieces, merges, byte_fallback=True, unk_token="<unk>"))
    scheme = "first" if spaced else "never"
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    core.add_special_tokens(["<unk>", "<s>", "</s>"])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
