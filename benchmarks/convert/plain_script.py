"""The peer: what a plain script does with the release, tensor by tensor, without any check.

    python benchmarks/convert/plain_script.py FOLDER OUTPUT

It unpickles each file (and so runs whatever the file says), multiplies, transposes, casts to
bfloat16 and saves with safetensors whenever 4 GiB have come together.
"""

import json
import pickle
import sys
from pathlib import Path

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy, which the pickles name
import numpy as np
import torch
from safetensors.torch import save_file

LAYER = (
    *(
        "moe_block.experts.{}.linear",
        "moe_block.experts.{}.linear_1",
        "moe_block.experts.{}.linear_v",
    ),
    *("attn.k_proj", "attn.o_proj", "attn.q_proj", "attn.v_proj"),
    *("pre_attn_norm", "post_attn_norm", "pre_moe_norm", "post_moe_norm", "moe_block.gate"),
)


class QuantizedWeight8bit:
    """The release's pickles name it in __main__."""


def load(path: Path) -> np.ndarray:
    """One leaf in fp32."""
    with path.open("rb") as file:
        value = pickle.load(file)
    if isinstance(value, np.ndarray):
        return value
    groups = value.scales.shape[-2]
    rows = value.weight.shape[-2] // groups
    out = value.weight.astype(np.float32)
    scales = value.scales.astype(np.float32)
    for group in range(groups):
        out[..., group * rows : (group + 1) * rows, :] *= scales[..., group : group + 1, :]
    return out


def main() -> None:
    """Convert one folder; layers are taken in the order of the files."""
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    output.mkdir()
    layers = sorted(range(json.loads((folder / "model.json").read_text())["num_layers"]), key=str)
    names = ["embed_tokens", "norm"]
    names += [f"layers.{layer}.{name}" for layer in layers for name in LAYER]
    tensors: dict[str, torch.Tensor] = {}
    files = size = 0

    def flush() -> None:
        nonlocal tensors, files, size
        save_file(tensors, output / f"model-{files:05d}.safetensors")
        files, size, tensors = files + 1, 0, {}

    for number, name in enumerate(names):
        leaf = torch.from_numpy(load(folder / "ckpt-0" / f"tensor{number:05d}_000"))
        for expert, part in enumerate(leaf if leaf.ndim == 3 else [leaf]):
            matrix = part.t() if part.ndim == 2 and name != "embed_tokens" else part
            tensors[f"model.{name.format(expert)}.weight"] = matrix.to(torch.bfloat16).contiguous()
            size += part.numel() * 2
            if size > 4 * 2**30:
                flush()
    flush()


if __name__ == "__main__":
    main()
