"""The functions behind `import ml_data`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_data.indexed.verify import Report, verify_pair
from ml_data.pipeline.manifest import read_manifest
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize as run_tokenize
from ml_data.tokenizers import load_tokenizer


def tokenize(
    input: str | Path | Sequence[str | Path],  # noqa: A002 - the name of the flag
    tokenizer: str | Path,
    output_prefix: str | Path,
    **options: Any,
) -> list[dict[str, Any]]:
    """Tokenize files to P_key_document.bin/.idx/.json; the manifests, one per key.

    `options` are those of `ml-data tokenize`, as fields of TokenizeOptions.
    """
    inputs = [input] if isinstance(input, (str, Path)) else input
    keys = options.pop("json_keys", ("text",))
    return run_tokenize(
        TokenizeOptions(
            input=tuple(str(one) for one in inputs),
            tokenizer_name_or_path=str(tokenizer),
            output_prefix=str(output_prefix),
            json_keys=(keys,) if isinstance(keys, str) else tuple(keys),
            **options,
        )
    )


def verify(prefix: str | Path, tokenizer: str | Path | None = None) -> Report:
    """Check a pair: structure, ids in range, checksums and, with a tokenizer, the fingerprint."""
    fingerprint = load_tokenizer(tokenizer).fingerprint if tokenizer is not None else None
    return verify_pair(prefix, read_manifest(prefix), fingerprint)
