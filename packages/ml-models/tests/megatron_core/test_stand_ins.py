"""megatron-core without triton: what CPU builds of torch lack and lines 0.18 and 0.19 import."""

import subprocess
import sys
from pathlib import Path

import pytest

from ml_models.megatron_core import lines
from ml_models.megatron_core.stand_ins import STAND_INS

ROWS = [row for row in STAND_INS if lines.installed_line() in row.lines]
WITHOUT_TRITON = "import sys; sys.modules['triton'] = None\n"
TRAIN = """
from ml_models import build, platforms, registry
platform = platforms.get_platform("cpu")
platform.apply()
from megatron.core import parallel_state, tensor_parallel
import torch
model = registry.get("grok1-tiny").replace(num_layers=1, vocab_size=64)
store = torch.distributed.HashStore()
torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
with platform.context():
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    module = build.build_model(
        model, build.make_transformer_config(model, device=platform.device),
        padded_vocab_size=64, pre_process=True, post_process=True,
    )
    tokens = torch.arange(8)[None]
    module(tokens, tokens, None, labels=tokens).mean().backward()
assert sys.modules["triton"] is None
print("trained")
"""
LAUNCH = """
from ml_models import platforms
platforms.make_core_importable()
from {importer} import {kernel} as kernel
try:
    kernel[(1,)](0)
except Exception as error:
    print(type(error).__name__, error)
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, timeout=180, check=False, cwd=Path(__file__).parent,
    )  # fmt: skip


def test_a_model_trains_without_triton() -> None:
    done = python(WITHOUT_TRITON + TRAIN)
    assert done.stdout.strip().endswith("trained"), done.stderr


@pytest.mark.skipif(not ROWS, reason="this line does not import triton")
def test_the_row_is_needed_and_a_kernel_says_what_is_missing() -> None:
    (row,) = ROWS
    bare = python(WITHOUT_TRITON + "import megatron.core")
    assert "ModuleNotFoundError" in bare.stderr
    kernels = {"0.18": "_paged_stash_copy_kernel", "0.19": "paged_stash_copy_kernel"}
    code = LAUNCH.format(importer=row.importer, kernel=kernels[lines.installed_line()])
    done = python(WITHOUT_TRITON + code)
    assert "PlatformError triton.jit(" in done.stdout, done.stderr
    assert done.stdout.strip().endswith("pip install triton")


@pytest.mark.skipif(not ROWS, reason="this line does not import triton")
def test_nothing_is_replaced_where_triton_is_installed() -> None:
    pytest.importorskip("triton")
    done = python(
        "from ml_models import platforms; platforms.make_core_importable(); import sys\n"
        f"import {ROWS[0].importer} as importer\n"
        "print([type(finder).__module__ for finder in sys.meta_path], importer.triton.__name__)"
    )
    assert "ml_models.megatron_core.stand_ins" not in done.stdout
    assert done.stdout.strip().endswith("triton"), done.stderr
