"""What torch answers where a training step needs a value and its tensors have none.

Most of a step never reads a value. What does:

- numbers for the host, such as "are all gradients finite": a bool is True, any other number 0,
  with which a step counts as sound and makes its update;
- tokens per expert. The choice of experts is made of real numbers (ml_train.planning.routing) on
  the CPU. Operators that take them together with tensors of the device get their shapes;
- the rows that a mask selects: the real mask is counted.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from ml_train.planning.leaves import tensors_in

aten = torch.ops.aten

# A copy between a tensor with values and a tensor without: each side keeps what it has.
_COPIES = (aten.copy_.default, aten._to_copy.default)


class MetaValues(TorchDispatchMode):
    """Runs operators on meta tensors, and on meta tensors together with CPU tensors."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = {} if kwargs is None else kwargs
        tensors = [*tensors_in(args), *tensors_in(kwargs)] if kwargs else [*tensors_in(args)]
        if not any(tensor.is_meta for tensor in tensors):
            return func(*args, **kwargs)
        if func.namespace == "c10d":
            return _communicate(func, args, kwargs)
        if func is aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 0
        if func is aten._to_copy.default and _names_the_cpu(kwargs.get("device")):
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is aten.copy_.default and not args[0].is_meta:
            return args[0]
        if func is aten.masked_select.default and not args[1].is_meta:
            return args[0].new_empty(int(args[1].sum()))
        if func not in _COPIES and not all(tensor.is_meta for tensor in tensors):
            args, kwargs = tree_map(_without_values, (args, dict(kwargs)))
        return func(*args, **kwargs)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as in meter.py


def _names_the_cpu(device: object) -> bool:
    return isinstance(device, torch.device | str) and torch.device(device).type == "cpu"


def _without_values(leaf: object) -> object:
    """A CPU tensor's shape on the meta device. Numbers in a tensor of no dimension stay."""
    if isinstance(leaf, Tensor) and not leaf.is_meta and leaf.dim():
        return leaf.to("meta")
    return leaf


def _communicate(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
    """A collective of a fake group. Some have no implementation for meta tensors.

    Which these are depends on torch: on 2.6 all of them, on 2.13 the all-to-all.
    """
    try:
        return func(*args, **kwargs)
    except NotImplementedError:
        # The handle to wait for is that of a barrier; what else is returned is the first argument.
        group = next(argument for argument in args if isinstance(argument, torch.ScriptObject))
        work = torch.ops.c10d.barrier(torch.empty(1, device="cpu"), group, [], False)
        return work if len(func._schema.returns) == 1 else (args[0], work)
