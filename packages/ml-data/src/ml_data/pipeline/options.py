"""What a run is asked to do; validated where it is stated."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from ml_data.errors import UsageError
from ml_data.indexed.prefixes import output_prefix

ON_ERROR = ("skip", "quarantine", "stop")
EXECUTORS = ("local", "ray")
INPUT_CHECKSUMS = ("all", "local", "none")
# Input read between two entries of the journal. Smaller loses less to a kill and syncs more often.
SHARD_BYTES = 16 << 20
# Larger ones repeat more units, which the fast engine encodes once: 4 MiB gain a tenth.
BATCH_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class TokenizeOptions:
    """Options of `ml-data tokenize`; the names are those of the flags."""

    input: tuple[str, ...]
    """Files, directories, globs or URIs, in the order in which they are read."""
    tokenizer_name_or_path: str
    """Directory or file of the tokenizer."""
    output_prefix: str
    """P of P_text_document.bin."""
    tokenizer_type: str = "PretrainedFromHF"
    engine: str = "auto"
    """What encodes: auto, fast, sentencepiece, gigatoken, tokenizers, transformers."""
    parse_special_tokens: bool = False
    """Control tokens such as `[EOS]` in text count as tokens."""
    json_keys: tuple[str, ...] = ("text",)
    """Columns or keys, each with an output of its own; `a.b` is a field of a struct."""
    append_eod: bool = False
    """End each document that is not empty with the end-of-document id."""
    eod_token: str | None = None
    """The end-of-document token's text, where the tokenizer's files name none or disagree."""
    eod_id: int | None = None
    """The same by its id."""
    add_bos: bool = False
    """Begin each document that is not empty with the beginning-of-text id, e.g. that of `<s>`."""
    template: str | None = None
    """`alpaca` or a pattern over columns, instead of a single column."""
    on_error: str = "quarantine"
    """What happens to rows without a usable text."""
    max_document_tokens: int | None = None
    """Drop longer documents; None keeps all."""
    workers: int = 4
    log_interval: int = 1000
    """Documents between two progress lines."""
    executor: str = "local"
    overwrite: bool = False
    """Replace a finished output of another run."""
    num_tasks: int = 1
    task_index: int = 0
    input_checksums: str = "all"
    """Inputs whose sha256 the manifest records: all, local, none."""
    batch_bytes: int = BATCH_BYTES
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        # Frozen for everybody else.
        object.__setattr__(self, "output_prefix", output_prefix(self.output_prefix))
        tokenizer = os.path.expanduser(self.tokenizer_name_or_path)
        object.__setattr__(self, "tokenizer_name_or_path", tokenizer)
        if not self.input:
            raise UsageError("--input: name at least one file, directory, glob or URI")
        if not self.json_keys or len(set(self.json_keys)) != len(self.json_keys):
            raise UsageError(f"--json-keys {' '.join(self.json_keys)}: give each key once")
        for name in ("workers", "log_interval", "num_tasks", "batch_bytes", "shard_bytes"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} {getattr(self, name)}: must be at least 1")
        if self.on_error not in ON_ERROR:
            raise UsageError(f"--on-error {self.on_error}: choose from {', '.join(ON_ERROR)}")
        if self.executor not in EXECUTORS:
            raise UsageError(f"--executor {self.executor}: choose from {', '.join(EXECUTORS)}")
        if self.input_checksums not in INPUT_CHECKSUMS:
            raise UsageError(
                f"--input-checksums {self.input_checksums}: choose from "
                f"{', '.join(INPUT_CHECKSUMS)}"
            )
        if not 0 <= self.task_index < self.num_tasks:
            raise UsageError(
                f"--task-index {self.task_index}: with --num-tasks {self.num_tasks} it must be "
                f"from 0 to {self.num_tasks - 1}"
            )
        self._check_eod()
        if self.max_document_tokens is not None and self.max_document_tokens < 1:
            raise UsageError(f"--max-document-tokens {self.max_document_tokens}: at least 1")
        if self.template is not None and self.json_keys != ("text",):
            raise UsageError("--template makes the one output 'text': leave --json-keys away")

    def _check_eod(self) -> None:
        if self.eod_token is not None and self.eod_id is not None:
            raise UsageError("--eod-token and --eod-id name the same thing: give one of them")
        if (self.eod_token is not None or self.eod_id is not None) and not self.append_eod:
            flag = "--eod-token" if self.eod_token is not None else "--eod-id"
            raise UsageError(f"{flag} has no effect without --append-eod: add it")
        if self.eod_token == "":
            raise UsageError("--eod-token '': give the text of a token")
        if self.eod_id is not None and self.eod_id < 0:
            raise UsageError(f"--eod-id {self.eod_id}: ids begin at 0")

    def that_shape_the_output(self) -> dict[str, Any]:
        """Options on which the bytes depend, for the journal and the manifest."""
        names = (
            "json_keys", "append_eod", "template", "on_error", "max_document_tokens",
            "tokenizer_type", "input_checksums", "parse_special_tokens", "eod_token", "eod_id",
            "add_bos",
        )  # fmt: skip
        return {name: value for name, value in asdict(self).items() if name in names}
