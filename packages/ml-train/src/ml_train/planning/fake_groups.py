"""The process groups of a rank whose peers do not exist."""

import contextlib
from collections.abc import Iterator

import torch.distributed as dist
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch.testing._internal.distributed.fake_pg import FakeStore

from ml_train.parallel.groups import end_model_parallel, model_parallel_groups
from ml_train.parallel.layout import Layout
from ml_train.planning.meta_platform import MetaPlatform


@contextlib.contextmanager
def rank_of(layout: Layout, rank: int, platform: MetaPlatform) -> Iterator[None]:
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
