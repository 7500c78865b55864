"""The platform of a plan: megatron-core as on a CPU, but on torch's meta device, without peers.

The process groups are torch's fake ones. They have the size and the ranks of real groups, and
their collectives return at once. A gather gives the values of this rank for those of every rank.
A rank of a job of 1,024 processes is built in a single process.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from ml_models.costs.target_forms import forms_of, packages_of
from ml_models.kernels import adam
from ml_models.kernels.table import KernelSettings
from ml_models.platforms import patch
from ml_models.platforms.cpu import CpuPlatform
from ml_models.platforms.cpu_device import DeviceArguments, current_device
from ml_models.platforms.patch import Patch
from ml_train.planning import fake_groups, uneven_pieces
from ml_train.planning.meta_values import MetaValues
from ml_train.planning.meter import Meter

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


def _gather_objects(objects: list[object], item: object, **_: object) -> None:
    """What torch's all_gather_object gives where every rank has this rank's object."""
    objects[:] = [item] * len(objects)


_ROWS = (
    current_device(META),
    Patch(
        target="torch.distributed:all_gather_object",
        make=lambda _: _gather_objects,
        reason="it pickles and reads an object per rank of the group, which takes a second for "
        "1,000 ranks",
    ),
    Patch(
        target="megatron.core.tensor_parallel.mappings:_gather_along_first_dim",
        make=_gather,
        reason="tokens per expert have values here, and its result would be made on the device",
    ),
)


_FUSED_ADAM = (
    Patch(
        target="ml_train.training.optimizer:why_not_fused",
        # Looked up in each call: target_forms answers there for the device.
        make=lambda _: lambda device: adam.why_not_fused(device),
        reason="the optimizer has the kernel of the planned device, not of the meta device",
    ),
    Patch(
        target="torch.optim.optimizer:_get_fused_kernels_supported_devices",
        make=lambda original: lambda: [*original(), META.type],
        reason="torch has a fused update for the meta device, and refuses to use it",
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

    def __init__(self, target: str = "cpu") -> None:
        super().__init__()
        self.target = target
        """Type of the device that is planned for, which decides the forms of the kernels."""

    def forms(self, settings: KernelSettings, meter: Meter) -> AbstractContextManager[None]:
        """Entered around the building and the running of a rank."""
        packages = packages_of(self.target, settings.attention)
        return forms_of(self.target, packages, meter, meter.as_kernel)

    @property
    def device(self) -> torch.device:
        """torch's meta device."""
        return META

    def apply(self) -> list[str]:
        """As on the CPU."""
        # torch's optimizers import it, which fails inside `context`, where it makes tensors.
        importlib.import_module("torch._dynamo")
        return super().apply()

    def _rows(self) -> tuple[Patch, ...]:
        of_device = uneven_pieces.ON_DEVICE if self.target != "cpu" else ()
        return *_ROWS, *_FUSED_ADAM, *fake_groups.ROWS, *of_device

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """As on the CPU, with every tensor that would be on a device on the meta device."""
        with (
            super().context(),
            patch.temporarily(self._rows()),
            _Functions(),
            DeviceArguments(META),
            MetaValues(),
        ):
            yield
