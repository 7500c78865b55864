"""`ml-data inspect`: what is in a token file, for a person's eyes."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_data.errors import MlDataError, UsageError
from ml_data.terminal import printable, say, say_histogram

if TYPE_CHECKING:
    from ml_data.indexed.manifest import Manifest
    from ml_data.indexed.reader import IndexedDataset
    from ml_data.tokenizers import Tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("prefix", help="P of P.bin and P.idx")
    parser.add_argument(
        "--tokenizer-name-or-path", "--tokenizer-model", help="default: the one in the manifest"
    )
    parser.add_argument("--samples", type=int, default=3, help="documents to show")
    parser.add_argument("--tokens", type=int, default=40, help="tokens to show of each")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Print what is in a token file."""
    # Imported here for start-up time: pyarrow and the tokenizers.
    from ml_data.indexed.manifest import known_manifest
    from ml_data.indexed.reader import IndexedDataset
    from ml_data.tokenizers import load_tokenizer

    for name in ("samples", "tokens"):
        if getattr(args, name) < 0:
            raise UsageError(f"--{name} {getattr(args, name)}: must be at least 0")
    data = IndexedDataset(args.prefix)
    manifest = known_manifest(data.prefix)
    known = manifest.tokenizer if manifest else None
    path = args.tokenizer_name_or_path or (known and known.path)
    tokenizer = None
    note = "no manifest names the tokenizer: give --tokenizer-name-or-path to see texts"
    if path:
        try:
            tokenizer = load_tokenizer(path)
        except MlDataError as error:
            if args.tokenizer_name_or_path:
                raise
            note = f"texts are not shown: {error}"
    facts = describe(data, manifest)
    facts["samples"] = _samples(data, tokenizer, args.samples, args.tokens)
    if tokenizer and any(sample["pieces"] is None for sample in facts["samples"]):
        note = f"{path} is not the tokenizer of this file: it has {tokenizer.vocab_size} ids"
        tokenizer = None
    if args.json:
        say(json.dumps(facts, indent=2))
        return 0
    _show(facts, None if tokenizer else note)
    return 0


def describe(data: IndexedDataset, manifest: Manifest | None) -> dict[str, Any]:
    """Counts, and a histogram of sequence lengths with powers of two as bounds."""
    counts = np.zeros(33, np.int64)
    shortest, longest = None, 0
    for at in range(0, len(data), 1 << 20):
        lengths = data.sequence_lengths[at : at + (1 << 20)]
        shortest = min(int(lengths.min()), shortest or 1 << 62)
        longest = max(longest, int(lengths.max()))
        bins = np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64)
        counts += np.bincount(bins, minlength=33)
    filled = np.flatnonzero(counts)
    histogram = [
        {"up_to": 1 << int(power), "sequences": int(counts[power])}
        for power in range(filled[0], filled[-1] + 1)
    ] if len(filled) else []  # fmt: skip
    return {
        "prefix": data.prefix,
        "documents": data.num_documents,
        "sequences": len(data),
        "tokens": data.num_tokens,
        "dtype": data.dtype.name,
        "shortest": shortest,
        "longest": longest,
        "mean": round(data.num_tokens / max(len(data), 1), 1),
        "histogram": histogram,
        "ledger": manifest and manifest.ledger and manifest.ledger.to_json(),
        "tokenizer": manifest and manifest.tokenizer and manifest.tokenizer.to_json(),
    }


def _samples(
    data: IndexedDataset, tokenizer: Tokenizer | None, count: int, tokens: int
) -> list[dict[str, Any]]:
    samples = []
    for number in range(min(count, len(data))):
        index = number * len(data) // count
        ids = [int(token) for token in data[index][:tokens]]
        # An id that the tokenizer does not have: the file was made with another tokenizer.
        fits = tokenizer is not None and max(ids, default=0) < tokenizer.vocab_size
        pieces = _pieces(tokenizer, ids) if tokenizer and fits else None
        samples.append({"sequence": index, "ids": ids, "pieces": pieces})
    return samples


def _pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """What each id adds to the text.

    A character may have several ids, its bytes. They add nothing until the last of them.
    """
    pieces, before = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end])
        whole = text.rstrip("\ufffd")
        pieces.append(whole[len(before) :])
        before = whole if len(whole) >= len(before) else before
    return pieces


def _show(facts: dict[str, Any], note: str | None) -> None:
    span = "-" if facts["shortest"] is None else f"{facts['shortest']} to {facts['longest']:,}"
    say(
        f"{facts['prefix']}\n  {facts['documents']:,} documents, {facts['sequences']:,} sequences, "
        f"{facts['tokens']:,} tokens, {facts['dtype']}\n  length: {span}, mean {facts['mean']:,}"
    )
    if facts["tokenizer"]:
        made_with = facts["tokenizer"]
        say(
            f"  tokenizer: {made_with.get('path')} ({made_with.get('vocab_size')} ids, end "
            f"{made_with.get('eod_id')})"
        )
    if facts["ledger"]:
        say(f"  dropped: {facts['ledger'].get('documents_dropped') or 'nothing'}")
    say("")
    rows = [(f"{bar['up_to']:,}", bar["sequences"]) for bar in facts["histogram"]]
    say_histogram(rows, ("tokens up to", "sequences"))
    for sample in facts["samples"]:
        say(f"\n  sequence {sample['sequence']}:")
        if sample["pieces"] is not None:
            say("  " + printable("|".join(sample["pieces"])))
        else:
            say(f"  {sample['ids']}")
    if note:
        say(f"\n  {note}")
