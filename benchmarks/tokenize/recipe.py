"""A tokenizer.json of Grok-1's model for the peers that read nothing else.

Merges by rank, one per piece and split; runs of line feeds and tabs as merges, shortest first. Text
with literal control strings such as `<|separator|>`, more than 10 line feeds or more than 8 tabs in
a row gets other ids than SentencePiece gives.
"""

from __future__ import annotations

import json
from pathlib import Path

import sentencepiece

FIRST_NORMAL = 325  # ids below are control, user-defined and byte pieces
RUNS = [*range(4, 14), *range(24, 32)]


def splits(piece: str, parts: set[str]) -> list[tuple[str, str]]:
    """Every way to make `piece` of two known parts."""
    both = ((piece[:end], piece[end:]) for end in range(1, len(piece)))
    return [(left, right) for left, right in both if left in parts and right in parts]


def write_json(model: Path, path: Path) -> None:
    """Write the tokenizer.json of a tokenizer.model."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    pieces = processor.id_to_piece(list(range(processor.vocab_size())))
    usable = {pieces[index] for index in RUNS} | set(pieces[FIRST_NORMAL:])
    runs = sorted((pieces[index] for index in RUNS), key=len)
    merges = [split for piece in runs + pieces[FIRST_NORMAL:] for split in splits(piece, usable)]
    special = {"id": 2, "content": "[EOS]", "special": True, "single_word": False}
    special |= {"lstrip": False, "rstrip": False, "normalized": False}
    steps = [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    ]
    model_part = {
        "type": "BPE", "dropout": None, "unk_token": "[UNK]", "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": True,
        "vocab": {piece: index for index, piece in enumerate(pieces)}, "merges": merges,
    }  # fmt: skip
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special],
        "normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None,
        "post_processor": None, "decoder": None, "model": model_part,
    }  # fmt: skip
    path.write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
