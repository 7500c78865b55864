"""The functions behind `import ml_data`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from ml_data.errors import FormatError
from ml_data.indexed.manifest import known_manifest
from ml_data.indexed.prefixes import expanded
from ml_data.indexed.verify import PairReport, verify_pair
from ml_data.nearest import did_you_mean
from ml_data.notices import Notice, warn
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.progress import OnProgress, ignore_progress
from ml_data.pipeline.run import tokenize as run_tokenize
from ml_data.tokenizers import load_tokenizer

_POSITIONAL = ("input", "tokenizer_name_or_path", "output_prefix")


def tokenize(
    input: str | Path | Sequence[str | Path],  # noqa: A002 - the name of the flag
    tokenizer: str | Path,
    output_prefix: str | Path,
    *,
    on_progress: OnProgress = ignore_progress,
    on_notice: Notice = warn,
    **options: Any,
) -> list[dict[str, Any]]:
    """Tokenize files to P_key_document.bin/.idx/.json; the manifests, one per key.

    `options` are the fields of `ml_data.pipeline.options.TokenizeOptions`, which are the flags of
    `ml-data tokenize`: `append_eod=True` is `--append-eod`. `on_progress` is called every
    `log_interval` documents. `on_notice` takes what the command would print; notices are Python
    warnings by default. Raises the exceptions of `ml_data.errors`; TypeError for an option that
    does not exist.
    """
    for name in options:
        if name not in _keyword_options():
            hint = did_you_mean(name, _keyword_options())
            raise TypeError(
                f"tokenize() got an unexpected keyword argument {name!r}{hint and f': {hint}'}"
            )
    stated = TokenizeOptions(
        input=input,  # type: ignore[arg-type] # TokenizeOptions makes a tuple of it
        tokenizer_name_or_path=str(tokenizer),
        output_prefix=str(output_prefix),
        **options,
    )
    manifests = run_tokenize(stated, on_progress=on_progress, on_notice=on_notice)
    return [manifest.to_json() for manifest in manifests]


def _keyword_options() -> dict[str, inspect.Parameter]:
    """The options that `tokenize` takes by keyword, as parameters with their defaults."""
    return {
        option.name: inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if option.default is MISSING else option.default,
            annotation=option.type,
        )
        for option in fields(TokenizeOptions)
        if option.name not in _POSITIONAL
    }


def _with_options(signature: inspect.Signature) -> inspect.Signature:
    """`signature` with every option instead of `**options`, for `help` and for editors."""
    *own, _ = signature.parameters.values()
    return signature.replace(parameters=[*own, *_keyword_options().values()])


tokenize.__signature__ = _with_options(inspect.signature(tokenize))  # type: ignore[attr-defined]


def verify(prefix: str | Path, tokenizer: str | Path | None = None) -> PairReport:
    """Check a pair: structure, ids in range, checksums and, with a tokenizer, the fingerprint."""
    prefix = expanded(prefix)
    loaded = load_tokenizer(tokenizer) if tokenizer is not None else None
    compared = (loaded.fingerprint, loaded.vocab_size) if loaded else (None, None)
    try:
        manifest = known_manifest(prefix)
    except FormatError as error:
        report = verify_pair(prefix, None, *compared)
        report.faults.append(str(error))
        return report
    return verify_pair(prefix, manifest, *compared)
