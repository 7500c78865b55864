"""What cannot run on fake tensors of the CPU, and reports to the recorder in its place."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._pytree import tree_leaves

from ml_models.costs.compiled import fused_kernels
from ml_models.costs.operations import size_bytes
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
        Patch(
            target="torch.nn.functional:rms_norm",
            make=lambda _: lambda x, _, weight, __: _FusedNorm.apply(x, weight, recorder),
            reason="a CPU computes it by many operations, a GPU by a kernel",
        ),
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


def installed_packages(modules: frozenset[str]) -> tuple[Patch, ...]:
    """Rows with which forms find these modules, and no others, beside the installed torch."""
    cuda_build = Patch(
        target="ml_models.kernels.forms:is_cpu_build",
        make=lambda _: lambda: False,
        reason="the device's machine has a build of torch for it",
    )
    return cuda_build, *(
        Patch(
            target=f"{module}:{name}",
            make=make,
            reason="the device's machine has other packages than this one",
        )
        for module in ("ml_models.kernels.forms", "ml_models.kernels.attention.forms")
        for name, make in (
            ("is_importable", lambda _: modules.__contains__),
            ("needs_version", lambda original: _version_of(original, modules)),
        )
    )


def _version_of(original: Any, modules: frozenset[str]) -> Callable[..., str]:
    def needs_version(distribution: str, lowest: tuple[int, int]) -> str:
        if distribution == "torch" and callable(original):
            return str(original(distribution, lowest))
        there = distribution.replace("-", "_") in modules
        return "" if there else f"{distribution} is not installed"

    return needs_version


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


class _FusedNorm(torch.autograd.Function):
    """torch's fused RMSNorm on a GPU: a kernel forward, one per gradient backward.

    ATen's native/cuda/layer_norm_kernel.cu: the gradients of the input and of the weight are
    kernels of their own, which both read the input and the result's gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, recorder: FakeStepRecorder) -> Tensor:
        ctx.recorder, ctx.shapes = recorder, (x, weight)
        with recorder.paused():
            result = torch.empty_like(x)
        recorder.record("rms_norm", "other", x.dtype, 2 * size_bytes(x) + size_bytes(weight))
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.shapes
        with ctx.recorder.paused():
            result = torch.empty_like(x), torch.empty_like(weight), None
        read = size_bytes(x) + size_bytes(grad)
        for name, written in (("rms_norm of x", x), ("rms_norm of weight", weight)):
            ctx.recorder.record(name, "other", x.dtype, read + size_bytes(written))
        return result


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
