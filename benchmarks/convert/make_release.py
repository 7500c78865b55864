"""Random weights in the format of xAI's release, written by pickle itself.

    python benchmarks/convert/make_release.py FOLDER [--hidden 6144] [--layers 1]

Makes FOLDER/ckpt-0 and FOLDER/model.json. With 6144 one layer and the embedding are 8.1 GB, each
file as large as the release's.
"""

import argparse
import json
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np

from ml_models import registry

GROUPS = 8  # of scales, in the two row-parallel weights


class QuantizedWeight8bit:
    """Pickled as __main__.QuantizedWeight8bit, which is what the release names."""


class Release:
    """Writes tensor files in their order."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.random = np.random.default_rng(0)
        folder.mkdir(parents=True)

    def put(self, value: object) -> None:
        """The next file."""
        with (self.folder / f"tensor{self.count:05d}_000").open("wb") as file:
            pickle.dump(value, file, protocol=4)
        self.count += 1

    def floats(self, *shape: int) -> None:
        """Norms, router, embedding."""
        self.put(self.random.standard_normal(shape, dtype=np.float32) * np.float32(0.02))

    def quantized(self, *shape: int, groups: int = 1) -> None:
        """int8 with bfloat16 scales."""
        value = QuantizedWeight8bit()
        value.weight = self.random.integers(-127, 128, size=shape, dtype=np.int8)
        scales = self.random.random((*shape[:-2], groups, shape[-1]), dtype=np.float32)
        value.scales = (scales * 1e-3 + 1e-4).astype(ml_dtypes.bfloat16)
        self.put(value)


def main() -> None:
    """Write one release."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hidden", type=int, default=6144)
    parser.add_argument("--layers", type=int, default=1)
    args = parser.parse_args()
    hidden, heads, kv = args.hidden, args.hidden // 128, 8
    ffn = 8 * hidden * 2 // 3
    ffn += -ffn % 8
    model = registry.get("grok1-314b").replace(
        num_layers=args.layers,
        hidden_size=hidden,
        ffn_hidden_size=ffn,
        num_attention_heads=heads,
        num_query_groups=kv,
    )
    release = Release(args.folder / "ckpt-0")
    (args.folder / "model.json").write_text(json.dumps(model.to_dict()))
    release.floats(model.vocab_size, hidden)
    release.floats(hidden)
    for _ in range(args.layers):
        release.quantized(8, hidden, ffn)
        release.quantized(8, ffn, hidden, groups=GROUPS)
        release.quantized(8, hidden, ffn)
        release.quantized(hidden, kv * 128)
        release.quantized(hidden, hidden, groups=GROUPS)
        release.quantized(hidden, hidden)
        release.quantized(hidden, kv * 128)
        for _ in range(4):
            release.floats(hidden)
        release.floats(hidden, 8)


if __name__ == "__main__":
    main()
