"""A folder that transformers wrote, to a Megatron checkpoint and back."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ml_models.conversion.convert import convert
from ml_models.conversion.open import open_source
from ml_models.weights.sink import SinkOptions


def there_and_back(saved: Path, work: Path, model_class: Any) -> None:
    """Every tensor keeps its bits, and transformers gives the logits of `saved`/ref again."""
    convert(
        open_source("huggingface", saved), "megatron", work / "mcore", SinkOptions(chunk_bytes=3000)
    )
    source = open_source("megatron", work / "mcore")
    convert(source, "huggingface", work / "back", SinkOptions(chunk_bytes=3000))
    before = load_file(saved / "model.safetensors")
    after = load_file(work / "back" / "model.safetensors")
    assert set(before) == set(after) and all(torch.equal(before[k], after[k]) for k in before)
    again = model_class.from_pretrained(work / "back").float()
    reference = load_file(saved / "ref")
    logits = again(reference["input_ids"]).logits
    torch.testing.assert_close(logits, reference["logits"], rtol=0, atol=1e-5)
