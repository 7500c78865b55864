"""The files of torch_dist between Pythons, whose pickles call the module of a path differently."""

import pickle
import pickletools
import re
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from megatron.core.dist_checkpointing.mapping import ShardedTensor

from ml_models.platforms.cpu import CpuPlatform
from ml_models.single_process import process_group
from ml_train.checkpoint import compare
from ml_train.checkpoint.tensors import torch_dist

WEIGHT = torch.arange(6.0).reshape(2, 3)


def saved_by_torch(folder: Path) -> Path:
    """A checkpoint of torch's own writer, which puts the folder's path in `.metadata`."""
    dcp.save({"weight": WEIGHT}, checkpoint_id=folder)
    return folder


@pytest.mark.parametrize("module", [b"pathlib", b"pathlib._local"])
def test_checkpoints_of_every_python_are_read(module: bytes, tmp_path: Path) -> None:
    folder = saved_by_torch(tmp_path / "saved")
    metadata = folder / ".metadata"
    # Protocol 2 writes a name as text: c, the module, a line feed, the name.
    stream = pickle.dumps(pickle.loads(metadata.read_bytes()), protocol=2)
    stream, count = re.subn(rb"cpathlib(\._local)?\n", b"c%b\n" % module, stream)
    assert count
    metadata.write_bytes(stream)
    assert torch_dist.read_metadata(folder) == {"weight": (2, 3)}
    with process_group(CpuPlatform()):
        wanted = ShardedTensor.from_rank_offsets("weight", torch.zeros(2, 3))
        assert torch.equal(torch_dist.load_tensors({"a": wanted}, folder)["a"], WEIGHT)
    entry = dcp.FileSystemReader(saved_by_torch(tmp_path / "own")).read_metadata()
    assert torch.equal(compare.read(folder, "weight", entry.state_dict_metadata["weight"]), WEIGHT)


def test_a_checkpoint_names_no_path(tmp_path: Path) -> None:
    folder = saved_by_torch(tmp_path / "saved")
    metadata = dcp.FileSystemReader(folder).read_metadata()
    shards = [
        (index, int(info.offset), int(info.length)) for index, info in metadata.storage_data.items()
    ]
    (name,) = (file.name for file in folder.glob("*.distcp"))
    file = torch_dist.Written(name, (folder / name).stat().st_size, "", shards)
    torch_dist.write_metadata(metadata, [file], folder, iteration=3)
    stream = (folder / ".metadata").read_bytes()
    texts = {argument for _, argument, _ in pickletools.genops(stream) if isinstance(argument, str)}
    assert "MetadataIndex" in texts
    assert not {text for text in texts if "pathlib" in text or "Path" in text}
    assert torch_dist.read_metadata(folder) == {"weight": (2, 3)}
