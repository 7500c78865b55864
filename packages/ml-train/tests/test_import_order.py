"""What must not have happened before a platform is applied."""

import os
import subprocess
import sys

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
