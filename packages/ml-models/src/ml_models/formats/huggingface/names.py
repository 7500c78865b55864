"""Names that wrappers changed before a model was saved, and tensors that are no weights.

A model that was saved inside DistributedDataParallel, FSDP or torch.compile has their names in
front of its own or between them. A name is changed only if the result is a name that the model
needs, and two names never become the same.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import TypeVar

from ml_models.errors import WeightError

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
INVERSE_FREQUENCIES = re.compile(r"(.*\.)?(original_)?inv_freq")
# inv_freq, cos_cached and sin_cached are RoPE's; position_ids and masked_bias are of older models.
_BUFFER = re.compile(r"(.*\.)?((original_)?inv_freq|(cos|sin)_cached|position_ids|masked_bias)")
_WRAPPERS = frozenset(
    {
        "module",  # DistributedDataParallel, DeepSpeed
        "_forward_module",  # Lightning
        "_orig_mod",  # torch.compile
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
    }
)
BASE = "model."
"""What a model saved without its head lacks in front of each name."""

Value = TypeVar("Value")


def is_buffer(name: str) -> bool:
    """Tables that a model computes from its configuration: RoPE's, masks, positions."""
    return _BUFFER.fullmatch(name) is not None


def in_the_models_names(
    tensors: Mapping[str, Value], needed: Collection[str]
) -> tuple[dict[str, Value], list[str]]:
    """`tensors` under the model's names, where only a wrapper's name differs, and notes.

    Raises WeightError where two tensors would have the same name.
    """
    known = {*needed, OUTPUT}
    # A trainer's own module around the model puts the same prefix in front of most names.
    prefix = _common_prefix(tensors, known)
    renamed: dict[str, Value] = {}
    origin: dict[str, str] = {}
    changes: Counter[str] = Counter()
    for name, value in tensors.items():
        new = _without_wrappers(name, prefix, known)
        if new in origin:
            raise WeightError(
                f"{origin[new]} and {name} are both {new} without the names of wrappers; remove "
                "the copy that is not meant."
            )
        origin[new] = name
        renamed[new] = value
        if new != name:
            changes[_difference(name, new)] += 1
    return renamed, [f"names read {change}: {count}" for change, count in changes.items()]


def _without_wrappers(name: str, prefix: str, known: Collection[str]) -> str:
    if name in known:
        return name
    plain = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    for candidate in (plain, plain.removeprefix(prefix), BASE + plain.removeprefix(prefix)):
        if candidate in known:
            return candidate
    return name


def _common_prefix(tensors: Collection[str], known: Collection[str]) -> str:
    """The prefix that makes the most names those of the model when it is removed; "" for none."""
    prefixes: Counter[str] = Counter()
    for name in tensors:
        parts = [part for part in name.split(".") if part not in _WRAPPERS]
        for start in range(1, len(parts)):
            if ".".join(parts[start:]) in known:
                prefixes[".".join(parts[:start]) + "."] += 1
    return prefixes.most_common(1)[0][0] if prefixes else ""


def _difference(name: str, new: str) -> str:
    """In words, how `name` became `new`."""
    if new == BASE + name:
        return f"with {BASE} in front"
    if name.endswith("." + new):
        return f"without {name.removesuffix(new)} in front"
    taken = [part for part in name.split(".") if part in _WRAPPERS]
    return f"without {', '.join(dict.fromkeys(taken))}"
