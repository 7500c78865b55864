"""Measures the messages that the processes of a machine send each other."""

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from ml_train.planning.calibration.curve import Curve
from ml_train.planning.calibration.timing import Stopwatch, powers

_BYTES = powers(2**10, 16, 4)
"""1 KiB, which is all latency, to 4 MiB, which is all bandwidth."""


def measure_messages(watch: Stopwatch, device: torch.device) -> Mapping[int, Mapping[str, Curve]]:
    """Processes of a group -> kind of message -> seconds by bytes of the whole message.

    Collective. All groups of a size send at the same time, as those of a run do. The kinds and
    the bytes are those of planning/meter.py.
    """
    world = dist.get_world_size()
    sizes = [size for size in range(2, world + 1) if world % size == 0]
    return {size: _of_groups(size, watch, device) for size in sizes}


def _of_groups(size: int, watch: Stopwatch, device: torch.device) -> Mapping[str, Curve]:
    world, rank = dist.get_world_size(), dist.get_rank()
    members = [list(range(first, first + size)) for first in range(0, world, size)]
    groups = [dist.new_group(ranks) for ranks in members]
    number = rank // size
    group, ranks = groups[number], members[number]
    points: dict[str, list[tuple[float, float]]] = {}
    for num_bytes in _BYTES:
        for kind, send in _actions(num_bytes, group, ranks, device).items():
            points.setdefault(kind, []).append((num_bytes, watch.seconds_together(send)))
    dist.barrier()
    for group in groups:
        if group is not dist.GroupMember.NON_GROUP_MEMBER:
            dist.destroy_process_group(group)
    return {kind: Curve(tuple(measured)) for kind, measured in points.items()}


def _actions(
    num_bytes: int, group: dist.ProcessGroup, ranks: list[int], device: torch.device
) -> Mapping[str, Callable[[], object]]:
    whole = torch.zeros(num_bytes // 4 // len(ranks) * len(ranks), device=device)
    part = torch.zeros(whole.numel() // len(ranks), device=device)
    other = torch.zeros_like(whole)
    return {
        "all-reduce": lambda: dist.all_reduce(whole, group=group),
        "all-gather": lambda: dist.all_gather_into_tensor(whole, part, group=group),
        "reduce-scatter": lambda: dist.reduce_scatter_tensor(part, whole, group=group),
        "all-to-all": lambda: dist.all_to_all_single(other, whole, group=group),
        "send": lambda: _pass_on(whole, other, ranks),
    }


def _pass_on(message: Tensor, received: Tensor, ranks: list[int]) -> None:
    """Every process sends to its right neighbour, as the stages of a pipeline do."""
    position = ranks.index(dist.get_rank())
    right, left = ranks[(position + 1) % len(ranks)], ranks[position - 1]
    operations = [dist.P2POp(dist.isend, message, right), dist.P2POp(dist.irecv, received, left)]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
