"""The cache of keys and values in a model whose scores depend on the query's position."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CACHED = """
import json, sys
from ml_train.bring_up import start_platform

platform = start_platform("cpu")
import torch
from ml_models import registry
from ml_models.single_process import process_group, whole_model
from ml_train.generation.cache import RememberingModel

model = registry.get("grok2-tiny").replace(
    vocab_size=128, num_layers=2, seq_length=32, attention_temperature_length=int(sys.argv[1])
)
tokens = torch.arange(24)[None] * 5 % 128
with process_group(platform), whole_model(model, platform, padded_vocab_size=128) as module:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1:
            parameter.data.fill_(1.0)
        else:
            # Large enough that scores reach the cap and a temperature shows.
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    with torch.inference_mode():
        whole = module(tokens, torch.arange(24)[None], None)[0]
    cached = RememberingModel(module, vocab_size=128, device=platform.device)
    # A prompt, then a token, then several, as speculative continuations would be.
    parts = [cached(tokens[:, :stop])[0] for stop in (5, 6, 7, 12, 13, 24)]
print(json.dumps({
    "shape": list(torch.cat(parts).shape),
    "difference": float((torch.cat(parts) - whole).abs().max()),
    "last": float(whole[-1].abs().sum()),
}))
"""


def run(length: int) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", CACHED, str(length)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_positions_and_temperature_continue_in_the_cache() -> None:
    warm, plain = run(4), run(1000)
    assert warm["shape"] == [24, 128]
    assert warm["difference"] < 1e-4 and plain["difference"] < 1e-4
    assert warm["last"] != pytest.approx(plain["last"], rel=1e-3)
