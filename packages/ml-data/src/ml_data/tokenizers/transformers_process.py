"""The process in which transformers reads a tokenizer's folder; the run itself never imports it.

transformers imports torch where it is installed, which takes seconds and gigabytes that a tokenizer
does not need. Here, in a process of its own, torch is hidden from it, and code from the folder is
never run. Most tokenizers of transformers are a `tokenizers.Tokenizer` inside: that is handed over
as JSON, and the process ends. Those written in Python are asked over the channel.

Messages are JSON. First request: {"folder", "parse_special_tokens"}; later {"texts"} or {"ids"}.
"""

from __future__ import annotations

import json
import sys
from multiprocessing.connection import Connection
from typing import Any

_HIDDEN = ("torch", "tensorflow", "jax", "flax")
_PROBE = "a"


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
        answer = describe(tokenizer)
    except Exception as error:  # noqa: BLE001 - whatever transformers raises is the answer
        answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    channel.send_bytes(json.dumps(answer).encode())
    while "vocabulary" in answer:
        request = json.loads(channel.recv_bytes())
        if "texts" in request:
            reply: Any = encode(tokenizer, request["texts"], split)
        else:
            reply = tokenizer.decode(request["ids"], skip_special_tokens=False)
        channel.send_bytes(json.dumps(reply).encode())


def load(folder: str) -> Any:
    """transformers' tokenizer of a folder, without torch, network or code from the folder."""
    for name in _HIDDEN:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def describe(tokenizer: Any) -> dict[str, Any]:
    """What the run has to know; `json` holds the whole tokenizer where it can be handed over."""
    import transformers

    facts = {
        "class": type(tokenizer).__name__,
        "version": transformers.__version__,
        "eos": tokenizer.eos_token_id,
        "bos": tokenizer.bos_token_id,
    }
    whole = _as_json(tokenizer)
    if whole is not None:
        return {**facts, "json": whole}
    plain = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    framed = tokenizer(_PROBE)["input_ids"]
    start = next(
        (at for at in range(len(framed)) if plain and framed[at : at + len(plain)] == plain), 0
    )
    frame = [framed[:start], framed[start + len(plain) :]]
    return {**facts, "vocabulary": tokenizer.get_vocab(), "frame": frame}


def _as_json(tokenizer: Any) -> str | None:
    """The `tokenizers` JSON, if what is read back from it has the same ids."""
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        return None
    try:
        whole: str = backend.to_str()
        back = Tokenizer.from_str(whole)
    except Exception:  # noqa: BLE001 - the library raises it; parts in Python have no JSON
        return None
    return whole if back.get_vocab() == backend.get_vocab() else None


def encode(tokenizer: Any, texts: list[str], split: bool) -> list[list[int]]:
    """Ids of each text, without the tokens that the library puts around it."""
    return [
        tokenizer(
            text, add_special_tokens=False, split_special_tokens=split, truncation=False,
            padding=False, verbose=False,
        )["input_ids"]
        for text in texts
    ]  # fmt: skip
