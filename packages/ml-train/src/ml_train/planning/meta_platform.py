"""The platform of a plan: megatron-core as on a CPU, but on torch's meta device, without peers.

The process groups are torch's fake ones. They have the size and the ranks of real groups, and
their collectives return at once. A gather gives the values of this rank for those of every rank.
A rank of a job of 1,024 processes is built in a single process.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from ml_models.platforms import patch
from ml_models.platforms.cpu import CpuPlatform
from ml_models.platforms.cpu_device import DeviceArguments, current_device
from ml_models.platforms.patch import Patch
from ml_train.planning.meta_values import MetaValues

META = torch.device("meta")

Gather = Callable[..., torch.Tensor]


def _gather(original: Gather) -> Gather:
    def gather_along_first_dim(
        input_: torch.Tensor, group: dist.ProcessGroup, *rest: object, **options: object
    ) -> torch.Tensor:
        if input_.is_meta:
            return original(input_, group, *rest, **options)
        gathered = input_.new_empty(group.size() * input_.shape[0], *input_.shape[1:])
        dist.all_gather_into_tensor(gathered, input_, group=group)
        return gathered

    return gather_along_first_dim


_ROWS = (
    current_device(META),
    Patch(
        target="megatron.core.tensor_parallel.mappings:_gather_along_first_dim",
        make=_gather,
        reason="tokens per expert have values here, and its result would be made on the device",
    ),
)


class _Functions(TorchFunctionMode):
    """What torch's functions answer where no operator is called that MetaValues would see.

    Tensor.type() answers for a meta tensor what it answers for one on the CPU: megatron-core's
    optimizers compare the name. torch.tensor() of a list of norms reads their values.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func is torch.tensor and isinstance(args[0], list):
            args = (tree_map(_without_meta, args[0]), *args[1:])
        result = func(*args, **(kwargs or {}))
        if func is torch.Tensor.type and isinstance(result, str):
            return result.replace("torch.meta.", "torch.", 1)
        return result


def _without_meta(item: object) -> object:
    return 0.0 if isinstance(item, torch.Tensor) and item.is_meta else item


class MetaPlatform(CpuPlatform):
    """Builds and runs a rank without its memory, its device and its peers."""

    name = "meta"
    # Tokens per expert are CPU tensors, and they are sent through the same groups.
    backend = "cpu:fake,meta:fake"
    needs_gloo_groups = False

    @property
    def device(self) -> torch.device:
        """torch's meta device."""
        return META

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """As on the CPU, with every tensor that would be on a device on the meta device."""
        with (
            super().context(),
            patch.temporarily(_ROWS),
            _Functions(),
            DeviceArguments(META),
            MetaValues(),
        ):
            yield
