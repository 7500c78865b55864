"""Is a folder a whole checkpoint, and may a library read it? Damaged checkpoints are refused here.

The checks of names, sizes, checksums and pickles are ml_models.files'. Each of several ranks may
take a part of the checksums, which read every byte.
"""

import json
from pathlib import Path

from ml_models.conversion.open import convert_command, formats_of
from ml_models.errors import WeightError
from ml_models.files.distributed import check_distributed_checkpoint
from ml_models.files.hashes import sha256_of
from ml_models.files.integrity import COMPLETE, INTEGRITY, verify_integrity
from ml_models.formats.megatron.model_config import MODEL_CONFIG

_WHOSE = {
    "megatron": "was saved by Megatron-LM or ModelLink",
    "huggingface": "holds weights in Hugging Face's format",
    "xai": "holds xAI's release",
}


def faults(folder: Path, *, checksums: bool, part: int = 0, parts: int = 1) -> list[str]:
    """What is wrong with a checkpoint; empty if nothing is.

    Part 0 looks at names, sizes and pickles; the files' checksums are shared out over the parts.
    """
    if part == 0 and (foreign := foreign_weights(folder)) is not None:
        return [foreign]
    if part == 0:
        if missing_or_cut := verify_integrity(folder):
            return [fault.rstrip(".") for fault in missing_or_cut]
        try:
            check_distributed_checkpoint(folder)
        except WeightError as error:
            return [str(error).rstrip(".")]
    return _wrong_checksums(folder, part, parts) if checksums else []


def foreign_weights(path: Path) -> str | None:
    """Which other program's weights a folder holds, and the command that converts them.

    None for a checkpoint of ml-train, a directory of checkpoints, and a folder without weights.
    """
    folder = path.parent if path.is_file() else path
    # Not integrity.json: megatron-core 0.19 writes one of its own by that name.
    own = (COMPLETE, MODEL_CONFIG)
    if any((folder / name).exists() for name in own) or any(folder.glob("iter_*")):
        return None
    formats = formats_of(folder)
    command = convert_command(folder)
    if not formats or command is None:
        return None
    what = f"{path} {_WHOSE[formats[0]]}"
    return (
        f"{what}; run {command}, and begin with --pretrained-checkpoint NEW, or as in Megatron "
        "with --load NEW --no-load-optim --no-load-rng"
    )


def _wrong_checksums(folder: Path, part: int, parts: int) -> list[str]:
    try:
        files = json.loads((folder / INTEGRITY).read_text(encoding="utf-8"))["files"]
        by_size = sorted(files, key=lambda name: (files[name]["size"], name))
        return [
            f"{folder / name}: content differs from what was written"
            for name in by_size[part::parts]
            if sha256_of(folder / name) != files[name]["sha256"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        # Part 0 tells what is wrong with names and sizes.
        return []
