"""The package's README: its example runs, and its table holds every model that has a name."""

import os
import re
import subprocess
import sys
from pathlib import Path

from ml_models import registry

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="ascii")


def test_the_example_gives_logits() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example + "print(tuple(logits.shape))"],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    vocabulary = registry.get("grok1-tiny").vocab_size
    assert done.stdout.strip() == f"(1, 16, {vocabulary})", done.stderr


def test_every_named_model_is_listed() -> None:
    table = README[README.index("| model |") : README.index("## What you")]
    assert set(re.findall(r"`([a-z0-9-]+)`", table)) >= set(registry.names())
