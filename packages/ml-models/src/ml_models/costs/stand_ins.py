"""What cannot run on fake tensors of the CPU, and reports to the recorder in its place."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._pytree import tree_leaves

from ml_models.costs.compiled import fused_kernels
from ml_models.costs.fused_norm import norm_stand_in
from ml_models.costs.routed_counts import FakeStepRecorder
from ml_models.platforms.patch import Patch


def stand_ins(recorder: FakeStepRecorder) -> tuple[Patch, ...]:
    """The rows, for the time of a step."""
    return (
        Patch(
            target="ml_models.kernels.execution:_compiled",
            make=lambda _: lambda function: _compiled(recorder, function),
            reason="code that torch.compile writes cannot run without memory",
        ),
        norm_stand_in(recorder),
        Patch(
            target="megatron.core.transformer.moe.token_dispatcher:maybe_move_tensor_to_cpu",
            make=lambda _: _to_host(recorder),
            reason="counts on the host have values",
        ),
        Patch(
            target="torch._subclasses.fake_tensor:FakeTensor.tolist",
            make=lambda _: lambda fake: recorder.read_on_host(fake),  # a method would not bind
            reason="fake tensors have no values",
        ),
        Patch(
            target="ml_models.platforms.cpu_device:Event.synchronize",
            make=lambda _: lambda _: recorder.wait("event"),
            reason="the host waits there for counts that come from the device",
        ),
    )


def _compiled(recorder: FakeStepRecorder, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, recorded as the kernels that torch.compile makes of it."""

    def run(*args: Any) -> Any:
        with recorder.paused():
            result = function(*args)
        dtype = next(t.dtype for t in tree_leaves(result) if isinstance(t, Tensor))
        for kernel in fused_kernels(function, args):
            name = f"{function.__name__} (compiled)"
            recorder.record(name, "other", dtype, kernel.moved_bytes)
        return result

    return run


def _to_host(recorder: FakeStepRecorder) -> Callable[..., object]:
    def maybe_move_tensor_to_cpu(
        tensor: object, as_numpy: bool = False, *_: object, **__: object
    ) -> object:
        if not isinstance(tensor, Tensor):
            return tensor
        value = recorder.value_of(tensor)
        # Inside fake tensors' mode numpy would get an address without values.
        with unset_fake_temporarily():
            return value.numpy() if as_numpy else value

    return maybe_move_tensor_to_cpu
