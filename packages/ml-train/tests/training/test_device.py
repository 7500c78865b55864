"""A run on the CPU with the CUDA build of torch, on a machine without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

from token_files import write_tokens

# torch.accelerator answers by how torch was built; the index is read from a driver that is missing.
CUDA_BUILD = """
import sys

import torch

def no_driver():
    raise RuntimeError("Found no NVIDIA driver on your system.")

def current_accelerator(check_available=False):
    return None if check_available else torch.device("cuda")

torch.accelerator.current_accelerator = current_accelerator
torch.accelerator.current_device_index = no_driver
torch.cuda.is_available = lambda: False

from ml_train.cli import main

for command in sys.argv[1:]:
    code = main(command.split())
    if code:
        raise SystemExit(code)
"""
SMALL = (
    "--model grok1-tiny --seq-length 8 --model-override num_layers=1 hidden_size=16 "
    "ffn_hidden_size=32 num_experts=2 kv_channels=8 num_attention_heads=2 num_query_groups=2 "
    "vocab_size=1024"
)


def test_pretrain_and_evaluate_choose_the_cpu(tmp_path: Path) -> None:
    prefix = write_tokens(tmp_path / "tokens", lengths=[20] * 20)
    for device in ("auto", "cpu"):
        run = tmp_path / device
        commands = [
            f"pretrain {SMALL} --bf16 --train-iters 2 --split 1,0,0 --data-path {prefix} "
            f"--save {run}",
            f"evaluate --load {run} --data-path {prefix}",
        ]
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                CUDA_BUILD,
                *(f"{words} --device {device}" for words in commands),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "perplexity" in done.stdout
        assert done.stderr == ""  # a healthy start has nothing to tell
