"""The few integers that a step reads on the host, although its tensors are fake.

Core's dispatcher reads how many tokens each expert gets. A fake tensor has no values, so those of
small integer tensors are computed beside it: tokens are taken as spread evenly over the experts,
and what is made from their counts by sums, gathers and reshapes follows from that.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from ml_models.costs.operations import name_of
from ml_models.costs.recorder import Recorder

SMALL = 4096
"""Elements of the largest tensor whose values are kept."""

_INTEGERS = (torch.int32, torch.int64)


class FakeStepRecorder(Recorder):
    """A Recorder for fake tensors, which knows the values of counts."""

    def __init__(self, topk: int) -> None:
        super().__init__()
        self.topk = topk
        """Experts that a token passes."""
        self._values = WeakTensorKeyDictionary()
        self._on_host = WeakTensorKeyDictionary()

    def value_of(self, fake: Tensor) -> Tensor:
        """The real tensor of a fake one whose value is known."""
        value: Tensor = self._values[fake]
        return value

    def read_on_host(self, fake: Tensor) -> list[int]:
        """What tolist gives; a wait unless the tensor was made from others on the host."""
        if fake not in self._on_host:
            self.wait("tolist")
        values: list[int] = self._values[fake].tolist()
        return values

    def compute(
        self,
        func: Callable[..., object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> object:
        """The result on fake tensors; values are kept beside it."""
        assert isinstance(func, torch._ops.OpOverload)
        name = name_of(func)
        if name == "_local_scalar_dense":
            return self._values[args[0]].item()
        if name == "masked_select":
            tensor, mask = args
            assert isinstance(tensor, Tensor) and isinstance(mask, Tensor)
            # The mask is the routing map [experts, tokens]: each token passes topk experts.
            return tensor.new_empty(mask.shape[1] * self.topk)
        result = func(*args, **kwargs)
        self._keep_value(func, name, args, kwargs, result)
        return result

    def _keep_value(
        self,
        func: Callable[..., object],
        name: str,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        result: object,
    ) -> None:
        given = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)]
        if "allgather" in name:
            # Every rank has the same counts.
            gathered, own = given[0], given[1]
            if own in self._values:
                with unset_fake_temporarily():
                    copies = self._values[own].repeat(gathered.numel() // own.numel())
                self._values[gathered] = copies
            return
        if not isinstance(result, Tensor) or result.numel() > SMALL:
            return
        # Memory that is only allocated has no values yet.
        if result.dtype not in _INTEGERS or name.startswith(("empty", "new_empty")):
            return
        if name == "sum" and given[0].dtype == torch.bool and given[0].dim() == 2:
            tokens, experts = given[0].shape
            with unset_fake_temporarily():
                self._values[result] = torch.full((experts,), tokens * self.topk // experts)
        elif all(not _is_fake(item) or item in self._values for item in given):
            real_args, real_kwargs = tree_map(self._real, (args, dict(kwargs)))
            with unset_fake_temporarily():
                self._values[result] = func(*real_args, **real_kwargs)
            if given and all(not _is_fake(item) or item in self._on_host for item in given):
                self._on_host[result] = True

    def _real(self, item: object) -> object:
        return self._values[item] if isinstance(item, Tensor) and _is_fake(item) else item


def _is_fake(tensor: Tensor) -> bool:
    return isinstance(tensor, torch._subclasses.FakeTensor)


class HostRanges(TorchFunctionMode):
    """A range that is made on the host stays real: core reads it there, which waits for nothing."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        made_on_host = func == torch.arange and str(kwargs.get("device")) == "cpu"
        with unset_fake_temporarily() if made_on_host else nullcontext():
            return func(*args, **kwargs)
