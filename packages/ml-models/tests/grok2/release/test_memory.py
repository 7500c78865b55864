"""Memory of a conversion does not follow the largest tensor: the release's 500 GB on a laptop."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = """
import json, sys
from pathlib import Path
from ml_models.conversion.convert import convert
from ml_models.conversion.open import open_source
from ml_models.platforms import get_platform
from ml_models.weights.sink import SinkOptions

folder, output = Path(sys.argv[1]), Path(sys.argv[2])
blocks = 2 * 2**20
# The sources read headers alone; what they import is in memory before the first measurement.
source = open_source("huggingface", folder)
memory = get_platform("cpu").memory_bytes
before = memory()
convert(source, "presharded", output / "pre", SinkOptions(presharded_ranks=4, chunk_bytes=blocks))
source = open_source("presharded", output / "pre")
convert(source, "huggingface", output / "plain", SinkOptions(chunk_bytes=blocks))
print(json.dumps([before, memory()]))
"""


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder whose two expert matrices have 96 MiB each; all zeros, as a file of holes."""
    import torch

    from ml_models import registry
    from ml_models.grok2.hf_config import to_huggingface
    from ml_models.grok2.release.layout import whole_map
    from ml_models.weights.boxes import volume
    from ml_models.weights.safetensors import header_bytes

    model = registry.get("grok2-tiny").replace(
        num_layers=1, num_experts=2, ffn_hidden_size=98304, hidden_size=512, vocab_size=256
    )
    shapes = whole_map(model).tensor_shapes
    folder = tmp_path_factory.mktemp("plain")
    (folder / "config.json").write_text(json.dumps(to_huggingface(model, "bfloat16")))
    with (folder / "model.safetensors").open("wb") as stream:
        head = header_bytes({name: (shape, torch.bfloat16) for name, shape in shapes.items()})
        stream.write(head)
        stream.truncate(len(head) + 2 * sum(map(volume, shapes.values())))
    return folder


def test_memory_is_bounded_by_blocks(model_folder: Path, tmp_path: Path) -> None:
    """From the plain form to the release's, and back."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WORKER, str(model_folder), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    before, after = json.loads(result.stdout.splitlines()[-1])
    # A tensor has 96 MiB, the model 580 MiB; a few blocks of 2 MiB are alive at a time.
    assert after - before < 90 * 2**20, (before, after)
