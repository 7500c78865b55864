"""Taking process groups down, without a deadlock of torch 2.6 and 2.7."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch.distributed as dist
from torch._C._distributed_c10d import Backend
from torch.distributed import distributed_c10d


@contextmanager
def backends_outlive_groups() -> Iterator[None]:
    """Belongs around every call that destroys process groups, megatron-core's own calls too.

    In torch before 2.8 the destructor of a process group keeps Python's global lock while it waits
    for the threads of its gloo backend. A thread that still frees the tensors of the last
    collective needs that lock, and both wait for ever (pytorch's pull request 154976 mended it).
    The type of a backend gives the lock up while it waits. So the last reference to a backend must
    be the one to that type, which is kept here until the groups are gone.
    """
    backends = list(_backends())
    try:
        yield
    finally:
        backends.clear()


def _backends() -> Iterator[Backend]:
    for group in distributed_c10d._world.pg_map:
        for device in group._device_types:
            # A gloo group lists cuda, which torch_npu's transfer_to_npu reads as npu: it has none.
            with suppress(RuntimeError):
                yield group._get_backend(device)


def destroy_process_groups() -> None:
    """torch.distributed and all its groups. Nothing may use a group afterwards."""
    with backends_outlive_groups():
        dist.destroy_process_group()
