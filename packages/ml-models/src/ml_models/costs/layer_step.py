"""One layer's forward and backward pass on fake tensors: what it would launch on a device.

The layer is built by `build_model` in megatron-core's DistributedDataParallel, as in training, for
rank 0 of a layout whose other ranks do not exist (torch's fake process group). Fake tensors have
sizes and no memory, so the true width of a large model takes seconds. The optimizer is not part of
the step.

Fake tensors say that they are on the CPU, because a CPU build of torch cannot differentiate tensors
of a GPU.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import lcm
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._pytree import tree_leaves

from ml_models.build import build_model, make_transformer_config, pad_vocab_size
from ml_models.config import ModelConfig
from ml_models.costs.compiled import fused_kernels
from ml_models.costs.recorder import Kernel, Recorder
from ml_models.costs.routed_counts import FakeStepRecorder, HostRanges
from ml_models.kernels.execution import Execution
from ml_models.platforms import get_platform
from ml_models.platforms.patch import Patch, temporarily


@dataclass(frozen=True, kw_only=True)
class LayerStep:
    """Which step of which layer."""

    model: ModelConfig
    seq_length: int
    micro_batch_size: int = 1
    tp: int = 1
    ep: int = 1
    etp: int = 1
    dtype: torch.dtype = torch.bfloat16
    execution: Execution = "eager"


@dataclass(frozen=True, kw_only=True)
class StepCosts:
    """What a step launches, in order."""

    kernels: tuple[Kernel, ...]
    """Kernels of the device, and collectives (kind "communication")."""
    host_waits: tuple[str, ...]
    """What made the host wait for the device."""


def fake_step(step: LayerStep) -> StepCosts:
    """The costs of a step, run on fake tensors. Opens and closes torch.distributed."""
    with _process_groups(step), FakeTensorMode(allow_non_fake_inputs=True):
        recorder = FakeStepRecorder(step.model.moe_router_topk)
        with temporarily(_stand_ins(recorder)), HostRanges():
            _run(step, recorder)
    return StepCosts(kernels=tuple(recorder.kernels), host_waits=tuple(recorder.host_waits))


def real_step(step: LayerStep) -> StepCosts:
    """The same on real tensors of the CPU: what the fake step is held to, at small sizes."""
    recorder = Recorder()
    with _process_groups(step):
        _run(step, recorder)
    return StepCosts(kernels=tuple(recorder.kernels), host_waits=tuple(recorder.host_waits))


@contextlib.contextmanager
def _process_groups(step: LayerStep) -> Iterator[None]:
    """Core's process groups of a layout, of which only this process, rank 0, exists."""
    platform = get_platform("cpu")
    platform.apply()
    torch.distributed.init_process_group(
        "fake", store=FakeStore(), rank=0, world_size=lcm(step.tp, step.ep * step.etp)
    )
    try:
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=step.tp,
            expert_model_parallel_size=step.ep,
            expert_tensor_parallel_size=step.etp,
            create_gloo_process_groups=False,
        )
        with platform.context():
            model_parallel_cuda_manual_seed(1)
            yield
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


def _run(step: LayerStep, recorder: Recorder) -> None:
    """Build the layer and run it inside the recorder."""
    # Not recorded, but watched: core's dispatcher makes ranges of integers as it is built.
    with recorder, recorder.paused():
        wrapped = _build_layer(step)
        layer = wrapped.module.decoder.layers[0]
        rows, batch = step.seq_length // step.tp, step.micro_batch_size
        hidden = torch.empty(rows, batch, step.model.hidden_size, dtype=step.dtype)
        angles = torch.empty(step.seq_length, 1, 1, step.model.kv_channels)
        grad = torch.empty_like(hidden)
        for tensor in (hidden, angles, grad, *layer.parameters()):
            torch.nn.init.normal_(tensor.data, std=0.02)
        hidden.requires_grad_()
    with recorder:
        output, _ = layer(hidden, rotary_pos_emb=angles)
        output.backward(grad)


def _build_layer(step: LayerStep) -> DistributedDataParallel:
    """A layer whose gradients are gathered in the buffer of core's DistributedDataParallel."""
    settings: dict[str, Any] = {
        "bf16": step.dtype == torch.bfloat16,
        "params_dtype": step.dtype,
        "pipeline_dtype": step.dtype,
        "tensor_model_parallel_size": step.tp,
        "expert_model_parallel_size": step.ep,
        "expert_tensor_parallel_size": step.etp,
        "sequence_parallel": step.tp > 1,
        "perform_initialization": False,
    }
    model = step.model.replace(num_layers=1)
    config = make_transformer_config(model, **settings)
    built = build_model(
        model,
        config,
        padded_vocab_size=pad_vocab_size(model.vocab_size, 1, step.tp),
        # Neither embedding nor logits: a layer alone.
        pre_process=False,
        post_process=False,
        execution=step.execution,
    )
    wrapped = DistributedDataParallel(
        config, DistributedDataParallelConfig(grad_reduce_in_fp32=True), built
    )
    return wrapped


def _stand_ins(recorder: FakeStepRecorder) -> tuple[Patch, ...]:
    """What cannot run on fake tensors, and reports to the recorder in its place."""

    def count_compiled(_: object) -> Callable[..., object]:
        def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any) -> Any:
                with recorder.paused():
                    result = function(*args)
                dtype = next(t.dtype for t in tree_leaves(result) if isinstance(t, Tensor))
                for kernel in fused_kernels(function, args):
                    name = f"{function.__name__} (compiled)"
                    recorder.record(name, "other", dtype, kernel.moved_bytes)
                return result

            return run

        return compiled

    def to_host(_: object) -> Callable[..., object]:
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

    def wait_for_event(_: object) -> Callable[[object], None]:
        return lambda _: recorder.wait("event")

    return (
        Patch(
            target="ml_models.kernels.execution:_compiled",
            make=count_compiled,
            reason="code that torch.compile writes cannot run without memory",
        ),
        Patch(
            target="megatron.core.transformer.moe.token_dispatcher:maybe_move_tensor_to_cpu",
            make=to_host,
            reason="counts on the host have values",
        ),
        Patch(
            target="torch._subclasses.fake_tensor:FakeTensor.tolist",
            make=lambda _: lambda fake: recorder.read_on_host(fake),
            reason="fake tensors have no values",
        ),
        Patch(
            target="ml_models.platforms.cpu_device:Event.synchronize",
            make=wait_for_event,
            reason="the host waits there for counts that come from the device",
        ),
    )
