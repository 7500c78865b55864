"""What a run is asked to do. This dataclass is the only list of the options of `tokenize`.

The command line takes its flags from the fields, `ml_data.tokenize` its keywords, and workers
receive the object itself. The help text of a flag is the documentation of its field.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Literal, TypedDict, get_args

from ml_data.errors import UsageError
from ml_data.indexed.prefixes import output_prefix
from ml_data.unicode_text import is_unicode

OnError = Literal["skip", "quarantine", "stop"]
Executor = Literal["local", "ray"]
InputChecksums = Literal["all", "local", "none"]
# Input read between two entries of the journal. Smaller loses less to a kill and syncs more often.
SHARD_BYTES = 16 << 20
# A window of the fast engine. Larger batches make a worker wait longer for its first batch, and
# for the others' last ones.
BATCH_BYTES = 2 << 20
# In the order in which manifests list them, which is part of the format.
_SHAPING_NAMES = (
    "tokenizer_type", "parse_special_tokens", "json_keys", "append_eod", "eod_token", "eod_id",
    "add_bos", "template", "on_error", "max_document_tokens", "input_checksums",
)  # fmt: skip
# The largest value of every count. Names of tasks have five digits, which the merge looks for. A
# batch is a single block of memory, which Arrow addresses with 32 bits.
_LARGEST_COUNTS = {
    "workers": 1 << 16,
    "log_interval": 1 << 62,
    "num_tasks": 99_999,
    "batch_bytes": (1 << 31) - 1,
    "shard_bytes": 1 << 62,
}
_PATHS = ("input", "tokenizer_name_or_path", "output_prefix")


class Flag(TypedDict, total=False):
    """How the command line shows a field; its name and type follow from the field."""

    help: str
    metavar: str
    choices: tuple[str, ...]
    second_name: str


@dataclass(frozen=True, kw_only=True)
class TokenizeOptions:
    """Options of `ml-data tokenize`, in the order of its help. Raises UsageError for bad values.

    `input` and `json_keys` take a single string or path as well as a sequence of them.
    """

    input: tuple[str, ...] = field(metadata=Flag(help="files, directories, globs or URIs"))
    tokenizer_name_or_path: str = field(
        metadata=Flag(
            help="directory or file of the tokenizer", second_name="--tokenizer-model"
        )
    )  # fmt: skip
    output_prefix: str = field(metadata=Flag(help="P of P_text_document.bin"))
    tokenizer_type: str = field(
        default="PretrainedFromHF",
        metadata=Flag(help="PretrainedFromHF: the files of a release, as they are"),
    )
    json_keys: tuple[str, ...] = field(
        default=("text",), metadata=Flag(help="columns, each with its own output")
    )
    append_eod: bool = field(
        default=False, metadata=Flag(help="end documents with the end-of-document id")
    )
    eod_token: str | None = field(
        default=None,
        metadata=Flag(
            help="end-of-document token, where the tokenizer's files don't agree on it",
            metavar="TEXT",
        ),
    )
    eod_id: int | None = field(
        default=None, metadata=Flag(help="the same by its id", metavar="N")
    )  # fmt: skip
    add_bos: bool = field(
        default=False,
        metadata=Flag(help="begin documents with the beginning-of-text token, e.g. <s>"),
    )
    parse_special_tokens: bool = field(
        default=False,
        metadata=Flag(help="control tokens in text, such as [EOS], count as tokens"),
    )
    engine: str = field(
        default="auto",
        metadata=Flag(
            help="auto (default), fast, sentencepiece, gigatoken (optional, by name only), "
            "tokenizers, tiktoken (tokenizer.tok.json), or transformers for folders that nothing "
            "else reads"
        ),
    )
    workers: int = field(
        default=4, metadata=Flag(help="threads or processes that encode (default 4)")
    )
    log_interval: int = field(
        default=1000, metadata=Flag(help="documents between progress lines")
    )  # fmt: skip
    template: str | None = field(
        default=None,
        metadata=Flag(help="'alpaca' or a pattern such as 'Q: {question}\\nA: {answer}'"),
    )
    on_error: OnError = field(
        default="quarantine",
        metadata=Flag(
            help="what to do with rows without a usable text (default: quarantine)",
            choices=get_args(OnError),
        ),
    )
    max_document_tokens: int | None = field(
        default=None, metadata=Flag(help="drop longer documents")
    )
    input_checksums: InputChecksums = field(
        default="all",
        metadata=Flag(
            help="inputs whose sha256 is recorded; remote ones are read once more for it",
            choices=get_args(InputChecksums),
        ),
    )
    shard_bytes: int = field(
        default=SHARD_BYTES,
        metadata=Flag(help="input between two journal entries: what a kill can cost"),
    )
    batch_bytes: int = field(
        default=BATCH_BYTES, metadata=Flag(help="input that a worker takes at a time")
    )
    executor: Executor = field(
        default="local",
        metadata=Flag(
            help="where workers are: on this machine, or actors of a Ray cluster",
            choices=get_args(Executor),
        ),
    )
    num_tasks: int = field(
        default=1, metadata=Flag(help="cut the input into this many tasks")
    )  # fmt: skip
    task_index: int = field(
        default=0,
        metadata=Flag(
            help="the task to do, from 0; when all are done: ml-data merge --tasks P"
        ),
    )  # fmt: skip
    overwrite: bool = field(
        default=False, metadata=Flag(help="replace the finished output of another command")
    )

    def __post_init__(self) -> None:
        # The dataclass is frozen. Its own constructor may still bring values into their final form.
        object.__setattr__(self, "input", _as_tuple(self.input))
        object.__setattr__(self, "json_keys", _as_tuple(self.json_keys))
        object.__setattr__(self, "output_prefix", output_prefix(self.output_prefix))
        self._check_texts()
        tokenizer = os.path.expanduser(self.tokenizer_name_or_path)
        object.__setattr__(self, "tokenizer_name_or_path", tokenizer)
        if not self.input:
            raise UsageError("--input: name at least one file, directory, glob or URI")
        self._check_keys()
        self._check_counts()
        self._check_choices()
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

    def _check_texts(self) -> None:
        """Refuse empty texts, which a variable of the shell without a value gives."""
        for name, value in vars(self).items():
            for text in value if isinstance(value, tuple) else (value,):
                if not isinstance(text, str):
                    continue
                if not text or (name in _PATHS and (not text.strip() or "\0" in text)):
                    raise UsageError(
                        f"{flag_of(name)} {text!r}: a {'path' if name in _PATHS else 'text'} was "
                        "expected; is a variable of the shell empty?"
                    )

    def _check_keys(self) -> None:
        if not self.json_keys or len(set(self.json_keys)) != len(self.json_keys):
            raise UsageError(f"--json-keys {' '.join(self.json_keys)}: give each key once")
        for key in self.json_keys:
            if "/" in key or "\0" in key:
                raise UsageError(
                    f"--json-keys {key!r}: the key becomes a part of file names, which cannot hold "
                    "a '/': rename the column"
                )

    def _check_counts(self) -> None:
        for name, largest in _LARGEST_COUNTS.items():
            count = getattr(self, name)
            if not 1 <= count <= largest:
                bound = "must be at least 1" if count < 1 else f"must be at most {largest}"
                raise UsageError(f"{flag_of(name)} {count}: {bound}")

    def _check_choices(self) -> None:
        for name in ("on_error", "executor", "input_checksums"):
            value, choices = getattr(self, name), flags()[name]["choices"]
            if value not in choices:
                raise UsageError(f"{flag_of(name)} {value}: choose from {', '.join(choices)}")

    def _check_eod(self) -> None:
        if self.eod_token is not None and self.eod_id is not None:
            raise UsageError("--eod-token and --eod-id name the same thing: give one of them")
        if (self.eod_token is not None or self.eod_id is not None) and not self.append_eod:
            flag = "--eod-token" if self.eod_token is not None else "--eod-id"
            raise UsageError(f"{flag} has no effect without --append-eod: add it")
        if self.eod_token is not None and not is_unicode(self.eod_token):
            raise UsageError(f"--eod-token {self.eod_token!a}: not the text of a token: no UTF-8")
        if self.eod_id is not None and self.eod_id < 0:
            raise UsageError(f"--eod-id {self.eod_id}: ids begin at 0")

    def that_shape_the_output(self) -> dict[str, object]:
        """Options on which the bytes depend, for the journal and the manifest."""
        values = asdict(self)
        return {name: values[name] for name in _SHAPING_NAMES}


def _as_tuple(values: str | Path | Iterable[str | Path]) -> tuple[str, ...]:
    return (str(values),) if isinstance(values, (str, Path)) else tuple(map(str, values))


@cache
def flags() -> dict[str, Flag]:
    """How the command line shows each option, by its name."""
    return {option.name: Flag(**option.metadata) for option in fields(TokenizeOptions)}  # type: ignore[typeddict-item]


def flag_of(name: str) -> str:
    """The flag of an option: `--on-error` of `on_error`."""
    return f"--{name.replace('_', '-')}"
