"""What the name of a file tells: its kind, its compression, and whether it is read with its folder.

A walk skips what Spark, Hadoop and Hugging Face's datasets skip: names that begin with `.` or `_`,
and files that describe the data. It also skips what ml-data itself has written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Sequence
from functools import lru_cache

PARQUET = (".parquet", ".pq")
JSON_LINES = (".jsonl", ".json", ".ndjson", ".jsonlines")
COMPRESSIONS = {
    ".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".xz": "xz",
    ".lz4": "lz4",
}  # fmt: skip
# Folders in which a table records which of its files are valid.
TABLE_LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
# JSON files that describe a data set, a tokenizer or a model, and hold no documents.
_FACTS = frozenset(
    {
        "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json",
        "croissant.json", "datapackage.json", "package.json",
        "tokenizer.json", "tokenizer.tok.json", "tokenizer_config.json",
        "special_tokens_map.json", "added_tokens.json",
        "vocab.json", "chat_template.json",
        "config.json", "generation_config.json", "preprocessor_config.json",
        "model.safetensors.index.json", "pytorch_model.bin.index.json",
    }
)  # fmt: skip


def kind_of(path: str) -> str | None:
    """'parquet', 'jsonl' or None for a name that is neither.

    pandas' own example names parquet by the compression of its pages: `df.parquet.gzip`.
    """
    name = path.rsplit("/", 1)[-1].lower()
    stem = name.removesuffix(_compressed_ending(name))
    if stem.endswith(PARQUET):
        return "parquet"
    return "jsonl" if stem.endswith(JSON_LINES) else None


def compression_of(path: str) -> str | None:
    """The compression of JSON lines that the ending of a name stands for."""
    return (
        None if kind_of(path) == "parquet" else COMPRESSIONS.get(_compressed_ending(path.lower()))
    )


def _compressed_ending(name: str) -> str:
    return next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")


def known_endings() -> str:
    """For messages."""
    return f"{', '.join(PARQUET + JSON_LINES)}, JSON lines also with {', '.join(COMPRESSIONS)}"


def is_hidden(name: str) -> bool:
    """Whether the name of a file or folder marks it as hidden or temporary.

    As in Spark, `_column=value` is a partition of a table.
    """
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def is_facts(path: str) -> bool:
    """Whether a file describes a data set, a tokenizer or a model."""
    return path.rsplit("/", 1)[-1] in _FACTS


def work_folder_of(path: str, listed: Container[str]) -> str | None:
    """The folder P.work of a run of ml-data in which `path` lies; `listed` holds all paths."""
    folder = path.rpartition("/")[0]
    is_work = folder.endswith(".work") and f"{folder}/journal.jsonl" in listed
    return folder if is_work else None


def is_quarantine(path: str, listed: Container[str]) -> bool:
    """Whether a file is the quarantine of an output of ml-data that lies beside it."""
    stem = path.removesuffix(".quarantine.jsonl")
    return stem != path and any(f"{stem}{end}" in listed for end in (".bin", ".idx", ".json"))


def is_token_file(path: str, listed: Container[str]) -> bool:
    """Whether a file is one of a pair of .bin and .idx."""
    stem = path.rpartition(".")[0]
    return path.endswith((".bin", ".idx")) and f"{stem}.bin" in listed and f"{stem}.idx" in listed


def may_be_manifest(path: str, listed: Container[str]) -> bool:
    """Whether a file has the name of the manifest of a pair beside it."""
    stem = path.removesuffix(".json")
    return stem != path and any(f"{stem}{end}" in listed for end in (".bin", ".idx"))


def files_of_run(prefix: str, keys: Sequence[str]) -> Callable[[str], bool]:
    """A test whether a run with this output prefix, or a task of it, writes a local path."""
    folder, base = os.path.split(prefix)
    home = os.path.realpath(folder or ".")
    any_key = "|".join(map(re.escape, keys))
    own_name = re.compile(
        rf"{re.escape(base)}(\.task-\d+-of-\d+)?"
        rf"(\.work|_({any_key})_document\.(bin|idx|json|quarantine\.jsonl))"
    )
    # Files of a folder share their parent: each folder is resolved once.
    real_folder = lru_cache(maxsize=1024)(os.path.realpath)

    def is_own(path: str) -> bool:
        parent = os.path.dirname(path)
        for written in (path, parent):
            if own_name.fullmatch(os.path.basename(written)):
                return real_folder(os.path.dirname(written) or ".") == home
        return False

    return is_own
