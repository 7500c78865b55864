"""What a distributed checkpoint keeps beside the tensors: the arguments of its run.

Up to 0.18 megatron-core writes them to common.pt. From 0.19 on they are the object `common_state`
of the first .distcp file, a torch.save of a list that holds it. common.pt goes first where both are
there, as in megatron-core.
"""

from pathlib import Path

from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata

from ml_models.architecture import Settings
from ml_models.files.allow_lists import RANK_FILE
from ml_models.files.distributed import COMMON
from ml_models.files.inert import mapping_of
from ml_models.files.slices import open_slice
from ml_models.files.torch_zip import inspect_torch_zip
from ml_models.formats.megatron.args import settings_of

COMMON_OBJECT = "common_state/shard_0_1"


def read_settings(folder: Path, metadata: Metadata) -> Settings | None:
    """The arguments of a run of Megatron-LM; None for a checkpoint that keeps none."""
    location = location_of(folder, metadata)
    common = folder / COMMON
    if common.is_file():
        with common.open("rb") as stream:
            content = inspect_torch_zip(stream, location, RANK_FILE)[0]
    elif (info := _common_object(metadata)) is not None:
        path = folder / info.relative_path
        with open_slice(path, int(info.offset), int(info.length)) as stream:
            content = inspect_torch_zip(stream, location, RANK_FILE)[0]
        content = content[0] if isinstance(content, list) and content else None
    else:
        return None
    entries = mapping_of(content)
    args = entries.get("args") if entries is not None else None
    return None if args is None else settings_of(args, location)


def location_of(folder: Path, metadata: Metadata) -> str:
    """Where the arguments are kept, for errors."""
    info = None if (folder / COMMON).is_file() else _common_object(metadata)
    if info is None:
        return str(folder / COMMON)
    return f"{folder / info.relative_path} ({COMMON_OBJECT})"


def _common_object(metadata: Metadata) -> _StorageInfo | None:
    places = metadata.storage_data.items()
    return next((info for index, info in places if index.fqn == COMMON_OBJECT), None)
