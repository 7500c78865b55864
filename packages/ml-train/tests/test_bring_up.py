"""The order in which a command starts: what must not be imported before the platform's apply()."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ml_models.platforms import get_platform
from ml_train import terminal
from ml_train.bring_up import start_platform

TOKENIZER = Path(__file__).parents[3] / "examples" / "data" / "grok1_tokenizer"

# MindSpeed's adaptor changes modules of megatron-core before they are first imported: it must find
# none of them. The stand-in tells which it finds and ends the command there, as nothing here can
# train on an NPU.
STAND_INS = {
    "torch_npu/__init__.py": (
        "import torch, types\n"
        "torch.npu = types.SimpleNamespace(\n"
        "    is_available=lambda: True, set_device=lambda index: print('device', index))\n"
    ),
    "torch_npu/contrib/__init__.py": "",
    "torch_npu/contrib/transfer_to_npu.py": "",
    "mindspeed/__init__.py": "",
    "mindspeed/megatron_adaptor.py": (
        "import sys\n"
        "print('early', [name for name in sys.modules if name.startswith('megatron.core')])\n"
        "raise SystemExit(7)\n"
    ),
}
COMMAND = """
import sys
from ml_models.platforms import ascend_adaptors
# What is installed here and for which line is the business of ml-models' own tests.
ascend_adaptors.choose = lambda line: ascend_adaptors.MINDSPEED
from ml_train.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["pretrain", "--model", "grok1-tiny", "--data-path", "nowhere"],
        ["generate", "--load", "x", "--tokenizer-name-or-path", str(TOKENIZER), "--prompt", "x"],
        ["evaluate", "--load", "nowhere", "--data-path", "nowhere"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_mindspeed_finds_no_module_of_megatron_core(tmp_path: Path, arguments: list[str]) -> None:
    for name, text in STAND_INS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments, "--device", "npu"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 7, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["device 0", "early []"]


PROBE = """
import sys
import ml_models.platforms
from ml_train.cli import main

class Probe:
    def set_device(self, local_rank):
        pass
    def apply(self):
        early = [name for name in ("megatron.core", "transformers") if name in sys.modules]
        print("imported before apply:", early)
        raise SystemExit(7)

ml_models.platforms.get_platform = lambda name="auto": Probe()
main(["pretrain", "--model", "grok1-tiny", "--data-path", "nowhere"])
"""


def test_megatron_core_is_not_imported_before_the_platform_is_applied() -> None:
    # MindSpeed's adaptor on Ascend machines has no effect on what was imported before it.
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "1", "RANK": "0"},
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert done.stdout.splitlines()[-1] == "imported before apply: []"


@pytest.mark.parametrize("level", ["detail", "notice"])
def test_the_log_says_what_was_adapted(level: str, capfd: pytest.CaptureFixture[str]) -> None:
    platform = get_platform("cpu")
    with terminal.speaking(level):
        start_platform("cpu")
    said = capfd.readouterr().err.splitlines()
    rows = [f"cpu: adapted {row}" for row in platform.apply()]
    assert len(rows) > 5
    assert said == (rows if level == "detail" else [])
