"""Peak memory of a conversion does not grow with the model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = """
import json, sys
from pathlib import Path
import numpy as np
from ml_models import registry
from ml_models.conversion.convert import convert
from ml_models.weights.safetensors import header_bytes
from ml_models.weights.boxes import volume
from ml_models.weights.maps import build_map
from ml_models.weights.sink import SinkOptions
from ml_models.conversion.open import open_source
from ml_models.platforms import get_platform
from ml_models.grok1.hf_config import to_huggingface
import torch

layers, folder, to = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
model = registry.get("grok1-tiny").replace(num_layers=layers, hidden_size=1024, kv_channels=128,
    ffn_hidden_size=2048, vocab_size=4096)
maps = registry.architecture(model).weights()
shapes = build_map(maps.huggingface_rows(model), maps.shapes(model), model).tensor_shapes
(folder / "in").mkdir()
(folder / "in" / "config.json").write_text(json.dumps(to_huggingface(model, "float32")))
total = 0
with (folder / "in" / "model.safetensors").open("wb") as file:
    file.write(header_bytes({name: (shape, torch.float32) for name, shape in shapes.items()}))
    for shape in shapes.values():
        size = volume(shape)
        file.write(np.full(size, 0.5, dtype="<f4").tobytes())
        total += size * 4
memory = get_platform("cpu").memory_bytes
before = memory()
options = SinkOptions(chunk_bytes=4 * 2**20)
convert(open_source("huggingface", folder / "in"), to, folder / "out", options)
after = memory()
largest = max(volume(shape) for shape in maps.shapes(model).values()) * 4
print(json.dumps([total, before, after, largest]))
"""


def measure(layers: int, folder: Path, to: str) -> tuple[int, int, int, int]:
    folder.mkdir()
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WORKER, str(layers), str(folder), to],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    total, before, after, largest = json.loads(result.stdout.splitlines()[-1])
    return total, before, after, largest


@pytest.mark.parametrize("to", ["megatron", "huggingface", "xai"])
def test_peak_memory_does_not_grow_with_the_model(to: str, tmp_path: Path) -> None:
    total, before, after, largest = measure(2, tmp_path / "large", to)
    assert total > 400 * 2**20
    assert after < 2 * largest + 2**30
    assert after - before < 150 * 2**20, (total, before, after)
