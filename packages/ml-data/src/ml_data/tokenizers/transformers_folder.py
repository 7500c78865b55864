"""A folder that only transformers can read: vocab.json with merges.txt, vocab.txt, tiktoken files.

transformers is an optional dependency and runs in a process of its own (`transformers_process`).
What it makes of the folder is the truth: its ids are those of `AutoTokenizer` with special tokens
in text left as text.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_data.errors import TokenizerError
from ml_data.tokenizers.huggingface_json import HuggingFaceTokenizer
from ml_data.tokenizers.protocol import Frame, Tokenizer, check_text, check_values, flatten
from ml_data.tokenizers.recognize import TRANSFORMERS_EXTRA, read_file, vocabulary_files
from ml_data.tokenizers.side_files import SIDE_FILES, Claim, SideFiles

ENGINE = "transformers"
_START = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from ml_data.tokenizers.transformers_process import main; sys.exit(main())"
)
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


def load_with_transformers(folder: Path, *, parse_special_tokens: bool) -> Tokenizer:
    """The tokenizer that AutoTokenizer makes of a folder; TokenizerError when it makes none."""
    if importlib.util.find_spec("transformers") is None:
        names = ", ".join(path.name for path in vocabulary_files(folder)) or "its files"
        raise TokenizerError(f"{folder}: only transformers reads {names}: {TRANSFORMERS_EXTRA}")
    process = _Process(folder, parse_special_tokens)
    facts = process.facts
    if "error" in facts:
        process.close()
        raise TokenizerError(_explain(folder, facts["error"]))
    if "json" in facts:
        process.close()
        return TransformersTokenizer(folder, facts, parse_special_tokens=parse_special_tokens)
    return ServedTokenizer(folder, process, parse_special_tokens=parse_special_tokens)


def _explain(folder: Path, error: str) -> str:
    if "trust_remote_code" in error:
        return (
            f"{folder} defines its tokenizer by Python code in the folder, and ml-data runs no "
            "code from there: save it as a tokenizer.json where you trust it, and give that"
        )
    hint = ""
    if not any((folder / name).is_file() for name in ("tokenizer_config.json", "config.json")):
        hint = (
            ". Nothing in the folder names the tokenizer's class: add a tokenizer_config.json, "
            'such as {"tokenizer_class": "GPT2Tokenizer"}'
        )
    return f"transformers cannot read {folder}: {error[:400]}{hint}"


def _fingerprint(folder: Path) -> str:
    """sha256 of the names and bytes of all files that the ids may depend on."""
    names = [path for path in (folder / name for name in SIDE_FILES) if path.is_file()]
    whole = folder / "tokenizer.json"
    names += [*vocabulary_files(folder), *([whole] if whole.is_file() else [])]
    digest = hashlib.sha256()
    for path in sorted(set(names)):
        digest.update(f"{path.name}\0".encode() + hashlib.sha256(read_file(path)).digest())
    return digest.hexdigest()


def _default_claims(facts: dict[str, Any], role: str) -> list[Claim]:
    number = facts[role]
    return [] if number is None else [Claim(source=f"its {facts['class']}", ids=(number,))]


class _Process:
    """The process with transformers, and what it says about the folder."""

    def __init__(self, folder: Path, parse_special_tokens: bool) -> None:
        near, far = socket.socketpair()
        command = [sys.executable, "-c", _START, str(far.fileno()), *sys.path]
        with far:
            self._process = subprocess.Popen(
                command, pass_fds=[far.fileno()], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={**os.environ, **_ENVIRONMENT},
            )  # fmt: skip
        self._channel, self._lock = Connection(near.detach()), threading.Lock()
        self.close = weakref.finalize(self, _end, self._process, self._channel)
        self.facts: dict[str, Any] = self.ask(
            {"folder": str(folder), "parse_special_tokens": parse_special_tokens}
        )

    def ask(self, request: dict[str, Any]) -> Any:
        """The answer to one request, from any thread."""
        try:
            with self._lock:
                self._channel.send_bytes(json.dumps(request).encode())
                return json.loads(self._channel.recv_bytes())
        except (EOFError, OSError) as error:
            self.close()
            code = self._process.returncode
            raise TokenizerError(f"the process with transformers ended ({code})") from error


def _end(process: subprocess.Popen[bytes], channel: Connection) -> None:
    channel.close()
    process.kill()
    process.wait()


class TransformersTokenizer(HuggingFaceTokenizer):
    """The `tokenizers.Tokenizer` that transformers made of a folder."""

    engine_name = ENGINE

    def __init__(
        self, folder: Path, facts: dict[str, Any], *, parse_special_tokens: bool = False
    ) -> None:
        self.path, self._facts = str(folder), facts
        self._load(facts["json"].encode(), parse_special_tokens)
        self.fingerprint = _fingerprint(folder)

    def add_tokens(self, side: SideFiles) -> None:
        """transformers has applied the files beside the vocabulary already."""

    def default_claims(self, role: str) -> list[Claim]:
        """What transformers' class says."""
        return _default_claims(self._facts, role)


class ServedTokenizer:
    """A tokenizer of transformers that is written in Python, asked in its own process."""

    engine_name = ENGINE
    # One process answers all threads in turn: only worker processes, each with its own, gain.
    releases_gil = False
    has_own_frame = True

    def __init__(
        self, folder: Path, process: _Process, *, parse_special_tokens: bool = False
    ) -> None:
        self.path, self._process, self._facts = str(folder), process, process.facts
        self.parse_special_tokens = parse_special_tokens
        self._ids: dict[str, int] = self._facts["vocabulary"]
        self._texts = {number: text for text, number in self._ids.items()}
        self.vocab_size = max(self._texts, default=-1) + 1
        self.fingerprint = _fingerprint(folder)
        self.notices: list[str] = []
        self.eod_id: int | None = None
        self.bos_id: int | None = None
        self.eod_fault = self.bos_fault = ""
        self.names_eod = False
        self.frame: Frame = (), ()

    def add_tokens(self, side: SideFiles) -> None:
        """transformers has applied the files beside the vocabulary already."""

    def token_id(self, token: str) -> int | None:
        """Id of the token with exactly this text."""
        return self._ids.get(token)

    def token_of(self, token_id: int) -> str | None:
        """Text of a token; None where there is none."""
        return self._texts.get(token_id)

    def own_claims(self, role: str) -> list[Claim]:
        """The class's word counts only where no file says anything."""
        return []

    def default_claims(self, role: str) -> list[Claim]:
        """What transformers' class says."""
        return _default_claims(self._facts, role)

    def own_frame(self) -> Frame:
        """What the class puts in front of and behind a text."""
        before, behind = self._facts["frame"]
        return tuple(before), tuple(behind)

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        check_text(text)
        ids: list[int] = self._process.ask({"texts": [text]})[0]
        return ids

    def encode_batch(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(flat ids [sum(lengths)], lengths [len(texts)])."""
        for text in texts:
            check_text(text)
        return flatten(self._process.ask({"texts": list(texts)}))

    def encode_arrow(self, values: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Like `encode_batch`, of an Arrow string array without nulls."""
        return self.encode_batch(check_values(values).to_pylist())

    def check_sample(
        self, values: pa.Array, ids: NDArray[np.int32], lengths: NDArray[np.int32]
    ) -> int:
        """This engine is the truth: nothing to compare."""
        return 0

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`."""
        text: str = self._process.ask({"ids": [int(number) for number in ids]})
        return text
