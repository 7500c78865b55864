"""A folder that only transformers can read: vocab.json with merges.txt, vocab.txt, tiktoken files.

transformers is an optional dependency and runs in a process of its own (`transformers_process`).
It is the reference tokenizer of the folder: the ids are those of `AutoTokenizer`, with special
tokens in text left as text.
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
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ml_data.errors import TokenizerError
from ml_data.tokenizer_files.recognize import TRANSFORMERS_EXTRA, read_file, vocabulary_files
from ml_data.tokenizers.base import TokenizerBase
from ml_data.tokenizers.huggingface_json import HuggingFaceTokenizer
from ml_data.tokenizers.protocol import Frame, Ids, Role, TokenClaim, Tokenizer, check_text, flatten
from ml_data.tokenizers.side_files import SIDE_FILES, SideFiles
from ml_data.tokenizers.transformers_process import Description

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
    process = _TransformersProcess(folder, parse_special_tokens)
    description = process.description
    if "error" in description:
        process.close()
        raise TokenizerError(_explain(folder, description["error"]))
    if "json" in description:
        process.close()
        return TransformersTokenizer(folder, description, parse_special_tokens=parse_special_tokens)
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
    named = [folder / name for name in (*SIDE_FILES, "tokenizer.json")]
    paths = {path for path in named if path.is_file()} | set(vocabulary_files(folder))
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name}\0".encode() + hashlib.sha256(read_file(path)).digest())
    return digest.hexdigest()


def _claims_of_class(description: Description) -> dict[Role, list[TokenClaim]]:
    """The end and beginning tokens that transformers' class names."""
    source = f"its {description['class_name']}"
    ids: dict[Role, int | None] = {"eos": description["eos"], "bos": description["bos"]}
    return {
        role: [TokenClaim(source=source, ids=(token_id,))]
        for role, token_id in ids.items()
        if token_id is not None
    }


class _TransformersProcess:
    """The process with transformers, and its description of the folder's tokenizer."""

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
        # Also when the tokenizer is garbage or Python ends: no process outlives its tokenizer.
        self.close = weakref.finalize(self, _end, self._process, self._channel)
        self.description: Description = self._ask(
            {"folder": str(folder), "parse_special_tokens": parse_special_tokens}
        )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        ids: list[list[int]] = self._ask({"texts": list(texts)})
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`."""
        text: str = self._ask({"ids": [int(token_id) for token_id in ids]})
        return text

    def _ask(self, request: Mapping[str, object]) -> Any:
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
        self, folder: Path, description: Description, *, parse_special_tokens: bool = False
    ) -> None:
        # Not HuggingFaceTokenizer's own, which would read the folder as a tokenizer.json.
        TokenizerBase.__init__(self, str(folder), parse_special_tokens=parse_special_tokens)
        self._load(description["json"].encode())
        self.fingerprint = _fingerprint(folder)
        self.default_claims = _claims_of_class(description)

    def add_tokens(self, side: SideFiles) -> None:
        """Nothing: transformers has applied the files beside the vocabulary."""


class ServedTokenizer(TokenizerBase):
    """A tokenizer of transformers that is written in Python and runs in a process of its own."""

    engine_name = ENGINE
    # One process answers all threads in turn, so threads gain nothing. Worker processes do: each
    # of them starts a process with transformers of its own.
    releases_gil = False
    has_own_frame = True

    def __init__(
        self, folder: Path, process: _TransformersProcess, *, parse_special_tokens: bool = False
    ) -> None:
        super().__init__(str(folder), parse_special_tokens=parse_special_tokens)
        self._process = process
        self._ids = process.description["vocabulary"]
        self._texts = {token_id: text for text, token_id in self._ids.items()}
        self.vocab_size = max(self._texts, default=-1) + 1
        self.fingerprint = _fingerprint(folder)
        self.default_claims = _claims_of_class(process.description)

    def token_id(self, token: str) -> int | None:
        """Id of the token with exactly this text."""
        return self._ids.get(token)

    def token_of(self, token_id: int) -> str | None:
        """Text of a token; None where there is none."""
        return self._texts.get(token_id)

    def own_frame(self) -> Frame:
        """What the class puts in front of and behind a text."""
        before, behind = self._process.description["frame"]
        return tuple(before), tuple(behind)

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        check_text(text)
        return self._process.encode([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> tuple[Ids, Ids]:
        """(flat ids [sum(lengths)], lengths [len(texts)])."""
        for text in texts:
            check_text(text)
        return flatten(self._process.encode(texts))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`."""
        return self._process.decode(ids)
