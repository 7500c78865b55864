"""The process groups of a rank whose peers do not exist.

megatron-core makes the groups of all ranks on every rank: 3,000 of them for 1,024 ranks. Only those
of the planned rank are made here.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch.distributed as dist
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch.testing._internal.distributed.fake_pg import FakeStore

from ml_models.platforms.patch import Patch
from ml_train.parallel.groups import end_model_parallel, model_parallel_groups
from ml_train.parallel.layout import Layout

if TYPE_CHECKING:
    from ml_models.platforms.base import Platform


RankGroups = list[list[int]]


def _own_groups(original: Callable[..., object]) -> Callable[..., object]:
    def create_group(ranks: Sequence[int], *rest: object, **options: object) -> object:
        if dist.get_rank() not in ranks:
            return dist.GroupMember.NON_GROUP_MEMBER  # what torch gives for other ranks' groups
        return original(ranks, *rest, **options)

    return create_group


def _remembered(original: Callable[..., RankGroups]) -> Callable[..., RankGroups]:
    @cache
    def groups_of(world: int, sizes: tuple[int, ...], mask: tuple[bool, ...]) -> RankGroups:
        return original(world, list(sizes), list(mask))

    def generate(world: int, sizes: Sequence[int], mask: Sequence[bool]) -> RankGroups:
        return [list(ranks) for ranks in groups_of(world, tuple(sizes), tuple(mask))]

    return generate


ROWS = (
    Patch(
        target="megatron.core.parallel_state:create_group",
        make=_own_groups,
        reason="a group of other ranks is never used, and 3,000 of them take half a second",
    ),
    Patch(
        target="megatron.core.parallel_state:generate_masked_orthogonal_rank_groups",
        make=_remembered,
        reason="all ranks of a plan have the same groups, and 1,024 ranks take half a second",
    ),
)
"""In place while a plan is made: see MetaPlatform.context."""


@contextlib.contextmanager
def rank_of(layout: Layout, rank: int, platform: "Platform") -> Iterator[None]:
    """Set the groups of `rank` up and take them down again, inside the platform's context."""
    dist.init_process_group(platform.backend, rank=rank, world_size=layout.world, store=FakeStore())
    try:
        model_parallel_groups(layout, platform)
        model_parallel_cuda_manual_seed(0)
        yield
    finally:
        end_model_parallel()
        # A group of two kinds of device has no default backend. torch notes that on stderr when
        # the group ends, and asks only for the kind of the default.
        world = dist.distributed_c10d._get_default_group()
        world._set_default_backend(dist.ProcessGroup.BackendType.CUSTOM)
        dist.destroy_process_group()
