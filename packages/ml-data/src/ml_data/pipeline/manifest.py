"""P_text_document.json: what the pair beside it was made of, and with what.

Everything but the section `run` depends on the inputs, the options and the installed versions
alone: any number of workers, kills and resumes gives the same bytes.
"""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import ml_data
from ml_data.indexed.files import FileFacts
from ml_data.indexed.manifest import FORMAT, FORMAT_VERSION
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.output import TokenizeOutput
from ml_data.pipeline.plan import TokenizePlan
from ml_data.tokenizers import Tokenizer

_LIBRARIES = ("numpy", "pyarrow", "sentencepiece", "tokenizers")
# Engines that are libraries of the same name.
_OPTIONAL = ("gigatoken", "transformers")


def build_manifest(
    options: TokenizeOptions,
    output: TokenizeOutput,
    tokenizer: Tokenizer,
    inputs: list[dict[str, Any]],
    facts: dict[str, FileFacts],
    run: dict[str, Any],
) -> dict[str, Any]:
    """The manifest of one output."""
    name = Path(output.prefix).name
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "key": output.key,
        "dtype": output.writer.dtype.name,
        "num_documents": output.writer.num_documents,
        "num_sequences": output.writer.num_sequences,
        "num_tokens": output.writer.num_tokens,
        "tokenizer": {
            "path": str(options.tokenizer_name_or_path),
            "type": options.tokenizer_type,
            "vocab_size": tokenizer.vocab_size,
            "eod_id": tokenizer.eod_id,
            "fingerprint": tokenizer.fingerprint,
            "engine": tokenizer.engine_name,
        },
        "options": options.that_shape_the_output(),
        "ledger": output.ledger.to_dict(),
        "inputs": inputs,
        "files": {f"{name}{suffix}": one.to_dict() for suffix, one in facts.items()},
        "versions": versions(tokenizer.engine_name),
        "run": run,
    }


def versions(engine: str = "") -> dict[str, str]:
    """This package, Python, and the libraries that the ids depend on, that of `engine` included."""
    installed = {"ml-data": ml_data.__version__, "python": platform.python_version()}
    for name in (*_LIBRARIES, *(name for name in _OPTIONAL if name == engine)):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def describe_inputs(
    plan: TokenizePlan, end_rows: dict[int, int], checksums: dict[int, str | None]
) -> list[dict[str, Any]]:
    """The inputs as a manifest lists them; `rows` are those that this task read."""
    first_rows = {one.file: one.start.row for one in plan.segments}
    return [
        {
            "path": source.name,
            "bytes": source.num_bytes,
            "rows": end_rows[file] - first_rows.get(file, 0) if file in end_rows else 0,
            "sha256": checksums.get(file),
        }
        for file, source in enumerate(plan.sources)
    ]
