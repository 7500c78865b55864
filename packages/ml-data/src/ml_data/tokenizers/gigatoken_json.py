"""An admitted tokenizer.model as the tokenizer.json of gigatoken, and the texts that it excludes.

gigatoken reads a vocabulary and merges by rank. SentencePiece takes user-defined symbols out of a
text before it merges, which merges cannot express in general. They can express two kinds of
symbols, if no normal piece holds the character: a single character, and the runs of a character of
every length up to some longest. In Grok-1's model these are digits, line feeds and tabs.
SentencePiece encodes the texts with any other symbol, with a longer run, or with the text of a
control, unknown or byte piece.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

from ml_data.tokenizer_files.model_facts import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, ModelFacts

_MARK = "\u2581"
_BYTE_PIECES = "<0x[0-9A-F]{2}>"


@dataclass(frozen=True, kw_only=True)
class GigatokenConversion:
    """What gigatoken needs of a model."""

    json: bytes
    """The tokenizer.json."""
    diverted: str
    """A pattern (RE2) of the texts that gigatoken may not encode."""
    symbols: list[str]
    """The user-defined symbols that the merges express."""


def convert(facts: ModelFacts) -> GigatokenConversion:
    """The conversion of a model that `sentencepiece_units.reason_against` admits.

    The ranks of the merges are the order of the normal pieces, so these must stand in the order of
    their scores.
    """
    pieces = [piece.decode() for piece in facts.pieces]
    normal = [piece.decode() for piece in facts.of_types(NORMAL)]
    user_defined = [piece.decode() for piece in facts.of_types(USER_DEFINED)]
    runs = _expressible_runs(user_defined, normal)
    symbols = [character * size for character, most in runs.items() for size in range(1, most + 1)]
    merges = _merges(sorted(symbols, key=len) + normal, {*symbols, *normal})
    literals = [piece.decode() for piece in facts.of_types(CONTROL, UNKNOWN)]
    # SentencePiece turns spaces into U+2581 before it looks for symbols. So it never sees a symbol
    # with a space, and sees a symbol with U+2581 in both spellings.
    literals += [text for text in user_defined if text not in symbols and " " not in text]
    patterns = [re.escape(text).replace(_MARK, f"[ {_MARK}]") for text in literals]
    patterns.append(_BYTE_PIECES)
    patterns += [
        f"{re.escape(character)}{{{most + 1}}}" for character, most in runs.items() if most > 1
    ]
    document = _document(facts, pieces, merges)
    return GigatokenConversion(json=document, diverted="|".join(patterns), symbols=symbols)


def _expressible_runs(user_defined: list[str], normal: list[str]) -> dict[str, int]:
    """{character: longest run} of the symbols that are runs of it, of every length up to it."""
    in_pieces = set("".join(normal))
    known = set(user_defined)
    runs = {}
    for character in (text for text in user_defined if len(text) == 1):
        # A merge of the character with a neighbour would break a run that SentencePiece takes out.
        if character in in_pieces or character in (" ", _MARK):
            continue
        # Every shorter run must be a symbol, too, as merges make a run of two shorter runs.
        most = 1
        while character * (most + 1) in known:
            most += 1
        runs[character] = most
    return runs


def _merges(pieces: list[str], parts: set[str]) -> list[tuple[str, str]]:
    """Every way to make a piece of two parts, in the order of the pieces.

    SentencePiece merges any two neighbours whose union is a piece, so all ways must be listed.
    """
    return [
        (piece[:end], piece[end:])
        for piece in pieces
        for end in range(1, len(piece))
        if piece[:end] in parts and piece[end:] in parts
    ]


def _document(facts: ModelFacts, pieces: list[str], merges: list[tuple[str, str]]) -> bytes:
    # What SentencePiece does to the spaces of a text under an admitted model, and nothing else.
    steps = [{"type": "Replace", "pattern": {"String": " "}, "content": _MARK}]
    if facts.add_dummy_prefix:
        steps.insert(0, {"type": "Prepend", "prepend": _MARK})
    unknown = facts.of_types(UNKNOWN)
    model = {
        "type": "BPE", "dropout": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
        "ignore_merges": False, "unk_token": unknown[0].decode() if unknown else None,
        "vocab": {piece: index for index, piece in enumerate(pieces)}, "merges": merges,
    }  # fmt: skip
    return orjson.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": None,
        "post_processor": None, "decoder": None, "model": model,
    })  # fmt: skip
