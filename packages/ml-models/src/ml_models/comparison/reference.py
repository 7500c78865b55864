"""A reference file: the numbers that another implementation computed for some tokens.

Keys of the safetensors file, all but input_ids under a prefix such as "xai_fp32.":
```
input_ids [B, S]           logits [B, S, V]         loss  (shifted mean cross entropy)
hidden_states.I [B, S, H]  final_norm [B, S, H]     router_logits.I [B, S, E]
grad.NAME, grad_norm.NAME  of the loss, by the Hugging Face name of a parameter
```
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ml_models.errors import WeightError


def read_reference(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors whose keys begin with `prefix`, by the rest of the key, and input_ids.

    Raises WeightError where the file cannot be read, or has no input_ids or no logits.
    """
    try:
        stored: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightError(f"{path}: no readable safetensors file ({error}).") from error
    reference = {
        key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)
    }
    if "input_ids" not in reference and "input_ids" in stored:
        reference["input_ids"] = stored["input_ids"]
    if "logits" not in reference:
        shown = ", ".join(repr(name) for name in _prefixes_with_logits(stored)) or "none"
        raise WeightError(f"{path}: no {prefix}logits; prefixes with logits: {shown}.")
    if "input_ids" not in reference:
        raise WeightError(f"{path}: no input_ids.")
    return reference


def _prefixes_with_logits(stored: Mapping[str, Tensor]) -> list[str]:
    prefixes = sorted({key.removesuffix("logits") for key in stored if key.endswith("logits")})
    return [prefix for prefix in prefixes if prefix == "" or prefix.endswith(".")]


def check_sizes(ids: Tensor, logits: Tensor, vocab_size: int) -> None:
    """WeightError unless a model with `vocab_size` entries takes `ids` and gives such logits."""
    if tuple(logits.shape) != (*ids.shape, vocab_size):
        raise WeightError(
            f"the reference's logits are {list(logits.shape)}; this model gives "
            f"{[*ids.shape, vocab_size]}: the weights are of another model."
        )
    if ids.ndim != 2 or int(ids.min()) < 0 or int(ids.max()) >= vocab_size:
        raise WeightError(
            f"the reference's input_ids are {list(ids.shape)}, up to {int(ids.max())}; the model "
            f"takes [batch, sequence] below its vocabulary of {vocab_size}."
        )


def has_gradients(reference: Mapping[str, Tensor]) -> bool:
    """Whether a backward pass is needed to compare all of `reference`."""
    return any(key.startswith("grad") for key in reference)


def has_loss(reference: Mapping[str, Tensor]) -> bool:
    """Whether the loss is needed to compare all of `reference`."""
    return "loss" in reference or has_gradients(reference)
