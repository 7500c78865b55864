"""megatron-core's torch_dist format: plan, write, close, read back.

    __RANK_0.distcp     this rank's tensors, each as torch.save writes it, one after the other
    .metadata           torch's pickle: shapes, and for each shard its file, offset and length
    common.pt           what is not a tensor; ml-train's holds the step number alone
    metadata.json       names the format for dist_checkpointing.load

megatron-core and torch plan the save and define the format. ml-train writes the files itself: the
core starts a manager process and forks writers, which costs seconds for small checkpoints, needs a
__main__ guard and forks a process that runs gloo threads. Here a thread writes one file and
computes its checksum on the way. Trade-off: one file per rank, written by one thread
(benchmarks/checkpoint compares it with the disk's own rate).
"""

import dataclasses
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing import state_dict_utils, validation
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.dict_utils import (
    dict_list_map_inplace,
    merge,
    nested_values,
)
from megatron.core.dist_checkpointing.mapping import (
    ShardedBase,
    ShardedStateDict,
    ShardedTensor,
    StateDict,
    apply_factory_merges,
    is_main_replica,
)
from megatron.core.dist_checkpointing.strategies import torch as strategy
from megatron.core.dist_checkpointing.utils import extract_sharded_base
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

from ml_models.files import distributed, durable
from ml_models.files.hashes import HashingStream

_CHAINED = re.compile(r"^chained_\d+\.")

Note = TypeVar("Note")


@dataclasses.dataclass
class Plan(Generic[Note]):
    """What this rank writes."""

    items: list[tuple[MetadataIndex, torch.Tensor]]
    """In file order."""
    metadata: Metadata | None
    """Of the whole checkpoint; None except on rank 0."""
    notes: list[Note]
    """What every rank handed in besides its plan, by rank; empty except on rank 0."""


@dataclasses.dataclass(frozen=True)
class Written:
    """One finished file."""

    name: str
    size: int
    sha256: str
    shards: list[tuple[MetadataIndex, int, int]]
    """(index, offset, length)."""


def tensors_by_key(
    sharded_state_dict: ShardedStateDict, *, check: bool
) -> dict[str, list[ShardedTensor]]:
    """The ShardedTensors of which this rank holds the main copy, by key.

    check: all ranks together make sure that each tensor is covered exactly once (collective).
    """
    sharded, _ = state_dict_utils.save_preprocess(sharded_state_dict, False)
    if check:
        _, everywhere = validation.determine_global_metadata(sharded)
        validation.validate_sharding_integrity(everywhere)
    by_key: dict[str, list[ShardedTensor]] = {}
    for tensor in nested_values(sharded):
        if not isinstance(tensor, ShardedTensor):
            raise TypeError(f"{tensor.key} is no tensor: a checkpoint of ours holds tensors alone")
        # Copies of a tensor on other ranks have another replica_id: one rank writes each shard.
        if is_main_replica(tensor.replica_id):
            by_key.setdefault(tensor.key, []).append(tensor)
    return by_key


def make_plan(
    tensors: Mapping[str, list[ShardedTensor]], *, note: Note, group: dist.ProcessGroup | None
) -> Plan[Note]:
    """Gather every rank's plan on rank 0. Collective over the group of all ranks.

    note: something small that rank 0 needs of every rank, sent along with the plan.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    state = strategy.mcore_to_pyt_state_dict(dict(tensors), False)
    planner = strategy.MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False)
    planner.set_up_planner(state, is_coordinator=rank == 0)
    local = planner.create_local_plan()
    # gather_object() replaces the entries of the list.
    gathered = [(local, note)] * world if rank == 0 else None
    dist.gather_object((local, note), gathered, dst=0, group=group)
    metadata, notes = None, []
    if gathered is not None:
        _, metadata = planner.create_global_plan([plan for plan, _ in gathered])
        notes = [note for _, note in gathered]
    # resolve_data() gives a view of the tensor in the model: nothing is copied yet.
    items = [(item.index, planner.resolve_data(item).detach()) for item in local.items]
    return Plan(items=items, metadata=metadata, notes=notes)


def write_tensors(plan: Plan[Note], folder: Path, rank: int) -> Written | None:
    """Write this rank's file, flushed to the disk. None without anything to write. OSError."""
    if not plan.items:
        return None
    path = folder / f"__{rank}_0.distcp"
    shards = []
    with durable.create(path) as raw:
        stream = HashingStream(raw)
        for index, tensor in plan.items:
            start = stream.size
            torch.save(_own_storage(tensor), stream)  # type: ignore[arg-type]
            shards.append((index, start, stream.size - start))
        durable.flush_stream(raw)
    return Written(path.name, stream.size, stream.sha256(), shards)


def write_metadata(
    metadata: Metadata, files: Iterable[Written], folder: Path, iteration: int
) -> None:
    """Rank 0, once all tensors are on the disk: the files that make the folder readable."""
    metadata.storage_data = {
        index: _StorageInfo(file.name, offset, length)
        for file in files
        for index, offset, length in file.shards
    }
    durable.write_flushed(folder / distributed.METADATA, distributed.metadata_pickle(metadata))
    # megatron-core's own loader expects the file; ml-train's facts are in run_state.json.
    common = io.BytesIO()
    torch.save({"iteration": iteration}, common)
    durable.write_flushed(folder / "common.pt", common.getvalue())
    save_config(CheckpointingConfig("torch_dist", 1), str(folder))


def read_metadata(folder: Path) -> dict[str, tuple[int, ...]]:
    """Key -> global shape. The caller has passed .metadata through the restricted unpickler."""
    with distributed.paths_of_every_python():
        entries = FileSystemReader(str(folder)).read_metadata().state_dict_metadata
    return {key: tuple(entry.size) for key, entry in entries.items() if hasattr(entry, "size")}


def load_tensors(sharded_state_dict: ShardedStateDict, folder: Path) -> StateDict:
    """The same nested structure with tensors read from the checkpoint. Collective.

    What is no tensor (parameter groups and the like) stays as it is in this process.
    """
    rest, unwrapped, factories = state_dict_utils.load_preprocess(sharded_state_dict)
    sharded, common = extract_sharded_base(rest)
    merge(common, unwrapped)
    with distributed.paths_of_every_python():
        merge(common, strategy.TorchDistLoadShardedStrategy().load(sharded, folder))
    return apply_factory_merges(common, factories)


def rename_optimizer_keys(sharded_state_dict: ShardedStateDict) -> None:
    """One set of names for plain and distributed optimizer, on every core line; in place.

    optimizer.state.{exp_avg,exp_avg_sq,param}.KEY: without the prefix of chained optimizers, and
    the plain optimizer's fp32_param becomes param.
    """

    def rename(value: object) -> object:
        if isinstance(value, ShardedBase):
            value.key = _CHAINED.sub("", value.key)
            value.key = value.key.replace("optimizer.state.fp32_param.", "optimizer.state.param.")
        return value

    dict_list_map_inplace(rename, sharded_state_dict)


def _own_storage(tensor: torch.Tensor) -> torch.Tensor:
    """torch.save writes a tensor's whole storage: a view must become a tensor of its own."""
    tensor = tensor.cpu()
    whole = tensor.untyped_storage().size() == tensor.numel() * tensor.element_size()
    return tensor if whole and tensor.is_contiguous() else tensor.contiguous().clone()
