"""The process in which transformers reads a tokenizer's folder. The run itself never imports it.

transformers imports torch where torch is installed. That takes seconds and gigabytes which a
tokenizer does not need. This process hides torch from transformers and never runs code from the
folder. Most tokenizers of transformers hold a `tokenizers.Tokenizer`: the process hands it over as
JSON and ends. A tokenizer that is written in Python stays here and answers over the channel.

Messages are JSON. The first request is {"folder", "parse_special_tokens"}, its answer a
`Description`. Later requests are {"texts"} or {"ids"}.
"""

from __future__ import annotations

import json
import sys
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HIDDEN = ("torch", "tensorflow", "jax", "flax")
_PROBE = "a"


class Description(TypedDict, total=False):
    """The answer to the first request: `error` alone, or the class with `json` or a vocabulary."""

    error: str
    class_name: str
    eos: int | None
    bos: int | None
    json: str
    """The whole tokenizer as a tokenizer.json, where it can be handed over."""
    vocabulary: dict[str, int]
    frame: tuple[list[int], list[int]]
    """Ids in front of a text and behind it."""


def main() -> int:
    """Entry point; the argument is the channel's file number."""
    channel = Connection(int(sys.argv[1]))
    try:
        serve(channel)
    except (EOFError, OSError, KeyboardInterrupt):
        return 1
    return 0


def serve(channel: Connection) -> None:
    """Answer the first request, and further ones for a tokenizer that could not be handed over."""
    request = json.loads(channel.recv_bytes())
    split = not request["parse_special_tokens"]
    try:
        tokenizer = load(request["folder"])
        answer: Description = describe(tokenizer)
    except Exception as error:  # noqa: BLE001 - whatever transformers raises is the answer
        answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    channel.send_bytes(json.dumps(answer).encode())
    while "vocabulary" in answer:
        request = json.loads(channel.recv_bytes())
        if "texts" in request:
            reply: object = encode(tokenizer, request["texts"], split)
        else:
            reply = tokenizer.decode(request["ids"], skip_special_tokens=False)
        channel.send_bytes(json.dumps(reply).encode())


def load(folder: str) -> PreTrainedTokenizerBase:
    """transformers' tokenizer of a folder, without torch, network or code from the folder."""
    for name in _HIDDEN:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    from transformers import AutoTokenizer  # after its heavy dependencies were hidden

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def describe(tokenizer: PreTrainedTokenizerBase) -> Description:
    """What the run has to know of a tokenizer."""
    description: Description = {
        "class_name": type(tokenizer).__name__,
        "eos": tokenizer.eos_token_id,
        "bos": tokenizer.bos_token_id,
    }
    whole = _as_json(tokenizer)
    if whole is not None:
        return {**description, "json": whole}
    plain = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    framed = tokenizer(_PROBE)["input_ids"]
    start = next(
        (at for at in range(len(framed)) if plain and framed[at : at + len(plain)] == plain), 0
    )
    frame = framed[:start], framed[start + len(plain) :]
    return {**description, "vocabulary": tokenizer.get_vocab(), "frame": frame}


def _as_json(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The `tokenizers` JSON, if what is read back from it has the same ids."""
    from tokenizers import Tokenizer  # transformers has imported it

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        return None
    try:
        whole: str = backend.to_str()
        back = Tokenizer.from_str(whole)
    except Exception:  # noqa: BLE001 - the library raises it; parts in Python have no JSON
        return None
    return whole if back.get_vocab() == backend.get_vocab() else None


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str], split: bool) -> list[list[int]]:
    """Ids of each text, without the tokens that the library puts around it."""
    return [
        tokenizer(
            text, add_special_tokens=False, split_special_tokens=split, truncation=False,
            padding=False, verbose=False,
        )["input_ids"]
        for text in texts
    ]  # fmt: skip
