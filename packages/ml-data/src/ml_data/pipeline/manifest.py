"""The manifest of an output of `ml-data tokenize`: what it was made of, and with what.

Everything but the section `run` depends on the inputs, the options and the installed versions
alone: any number of workers, kills and resumes gives the same bytes.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from ml_data.indexed.files import FileFacts
from ml_data.indexed.manifest import InputRecord, Manifest, TokenizerRecord
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.output import TokenizeOutput
from ml_data.pipeline.plan import TokenizePlan
from ml_data.tokenizers import Tokenizer
from ml_data.version import __version__

_LIBRARIES = ("numpy", "pyarrow", "sentencepiece", "tokenizers")
# Engines that are libraries of the same name.
_OPTIONAL = ("gigatoken", "tiktoken", "transformers")


def build_manifest(
    plan: TokenizePlan,
    output: TokenizeOutput,
    inputs: list[InputRecord],
    sealed: Mapping[str, FileFacts],
    run: Mapping[str, object],
) -> Manifest:
    """The manifest of an output, whose `sealed` files are given by suffix."""
    name = Path(output.prefix).name
    return Manifest(
        key=output.key,
        dtype=output.writer.dtype.name,
        num_documents=output.writer.num_documents,
        num_sequences=output.writer.num_sequences,
        num_tokens=output.writer.num_tokens,
        tokenizer=_tokenizer_record(plan.options, plan.tokenizer),
        options=plan.options.that_shape_the_output(),
        ledger=output.ledger,
        inputs=inputs,
        files={f"{name}{suffix}": facts for suffix, facts in sealed.items()},
        versions=versions(plan.tokenizer.engine_name),
        run=run,
    )


def _tokenizer_record(options: TokenizeOptions, tokenizer: Tokenizer) -> TokenizerRecord:
    return TokenizerRecord(
        path=options.tokenizer_name_or_path,
        type=options.tokenizer_type,
        vocab_size=tokenizer.vocab_size,
        eod_id=tokenizer.eod_id,
        fingerprint=tokenizer.fingerprint,
        engine=tokenizer.engine_name,
    )


def versions(engine: str = "") -> dict[str, str]:
    """This package, Python, and the libraries that the ids depend on, that of `engine` included."""
    installed = {"ml-data": __version__, "python": platform.python_version()}
    for name in (*_LIBRARIES, *(name for name in _OPTIONAL if name == engine)):
        version = _installed_version(name)
        if version is not None:
            installed[name] = version
    return installed


@cache
def _installed_version(name: str) -> str | None:
    """The version of a distribution; None where it is not installed."""
    # Installers call the folder with the facts of a distribution NAME-VERSION.dist-info. Its name
    # is read first, as importlib.metadata takes 12 ms to be imported and to parse the descriptions
    # of four packages.
    folder_name = re.compile(rf"{name}-([^-]+)\.dist-info")
    for folder in sys.path:
        with suppress(OSError):
            matches = list(filter(None, map(folder_name.fullmatch, os.listdir(folder or "."))))
            if len(matches) == 1:
                return matches[0][1]
            if matches:
                break
    # Another kind of installer, an archive in sys.path, or the rest of an installation that failed.
    from importlib import metadata

    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None


def describe_inputs(
    plan: TokenizePlan, end_rows: Mapping[int, int], checksums: Mapping[int, str | None]
) -> list[InputRecord]:
    """The inputs as a manifest lists them, with the rows that this task read.

    `end_rows` and `checksums` are given by the index of the input.
    """
    first_rows = {segment.file: segment.start.row for segment in plan.segments}
    return [
        InputRecord(
            path=source.name,
            num_bytes=source.num_bytes,
            num_rows=end_rows[file] - first_rows.get(file, 0) if file in end_rows else 0,
            sha256=checksums.get(file),
        )
        for file, source in enumerate(plan.sources)
    ]
