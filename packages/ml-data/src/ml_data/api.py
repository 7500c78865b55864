"""The functions behind `import ml_data`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ml_data.errors import FormatError
from ml_data.indexed.manifest import known_manifest
from ml_data.indexed.prefixes import expanded
from ml_data.indexed.verify import PairReport, verify_pair
from ml_data.indexed.writer import warn
from ml_data.pipeline.options import BATCH_BYTES, SHARD_BYTES, TokenizeOptions
from ml_data.pipeline.plan import OnNotice
from ml_data.pipeline.progress import OnProgress
from ml_data.pipeline.run import tokenize as run_tokenize
from ml_data.tokenizers import load_tokenizer


def tokenize(
    input: str | Path | Sequence[str | Path],  # noqa: A002 - the name of the flag
    tokenizer: str | Path,
    output_prefix: str | Path,
    *,
    json_keys: str | Sequence[str] = ("text",),
    append_eod: bool = False,
    eod_token: str | None = None,
    eod_id: int | None = None,
    add_bos: bool = False,
    parse_special_tokens: bool = False,
    template: str | None = None,
    on_error: Literal["skip", "quarantine", "stop"] = "quarantine",
    max_document_tokens: int | None = None,
    tokenizer_type: str = "PretrainedFromHF",
    engine: Literal[
        "auto", "fast", "sentencepiece", "gigatoken", "tokenizers", "transformers"
    ] = "auto",
    workers: int = 4,
    executor: Literal["local", "ray"] = "local",
    num_tasks: int = 1,
    task_index: int = 0,
    overwrite: bool = False,
    input_checksums: Literal["all", "local", "none"] = "all",
    batch_bytes: int = BATCH_BYTES,
    shard_bytes: int = SHARD_BYTES,
    log_interval: int = 1000,
    on_progress: OnProgress = lambda tick: None,
    on_notice: OnNotice = warn,
) -> list[dict[str, Any]]:
    """Tokenize files to P_key_document.bin/.idx/.json; the manifests, one per key.

    The options are those of `ml-data tokenize`. `on_progress` is called every `log_interval`
    documents, `on_notice` with what the command would print: warnings, unless told otherwise.
    """
    inputs = [input] if isinstance(input, (str, Path)) else input
    options = TokenizeOptions(
        input=tuple(str(one) for one in inputs),
        tokenizer_name_or_path=str(tokenizer),
        output_prefix=str(output_prefix),
        json_keys=(json_keys,) if isinstance(json_keys, str) else tuple(json_keys),
        append_eod=append_eod,
        eod_token=eod_token,
        eod_id=eod_id,
        add_bos=add_bos,
        parse_special_tokens=parse_special_tokens,
        template=template,
        on_error=on_error,
        max_document_tokens=max_document_tokens,
        tokenizer_type=tokenizer_type,
        engine=engine,
        workers=workers,
        executor=executor,
        num_tasks=num_tasks,
        task_index=task_index,
        overwrite=overwrite,
        input_checksums=input_checksums,
        batch_bytes=batch_bytes,
        shard_bytes=shard_bytes,
        log_interval=log_interval,
    )
    return run_tokenize(options, on_progress=on_progress, on_notice=on_notice)


def verify(prefix: str | Path, tokenizer: str | Path | None = None) -> PairReport:
    """Check a pair: structure, ids in range, checksums and, with a tokenizer, the fingerprint."""
    prefix = expanded(prefix)
    loaded = load_tokenizer(tokenizer) if tokenizer is not None else None
    given = (loaded.fingerprint, loaded.vocab_size) if loaded else (None, None)
    try:
        manifest = known_manifest(prefix)
    except FormatError as error:
        report = verify_pair(prefix, None, *given)
        report.faults.append(str(error))
        return report
    return verify_pair(prefix, manifest, *given)
