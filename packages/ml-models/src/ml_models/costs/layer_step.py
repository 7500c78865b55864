"""One layer's forward and backward pass on fake tensors: what it would launch on a device.

The layer is built by `build_model` in megatron-core's DistributedDataParallel, as in training, for
rank 0 of a layout whose other ranks do not exist (torch's fake process group). Fake tensors have
sizes and no memory, so the true width of a large model takes seconds. The optimizer is not part of
the step.

Fake tensors say that they are on the CPU, because a CPU build of torch cannot differentiate tensors
of a GPU.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from ml_models.build import build_model, make_transformer_config, pad_vocab_size
from ml_models.config import ModelConfig
from ml_models.costs.compiled import check_torch
from ml_models.costs.fused_attention import attention_stand_ins, flash_attn_stand_in
from ml_models.costs.packages import installed_packages
from ml_models.costs.recorder import Kernel, Recorder
from ml_models.costs.routed_counts import FakeStepRecorder, HostRanges
from ml_models.costs.stand_ins import stand_ins
from ml_models.kernels.execution import Execution
from ml_models.kernels.table import KernelSettings, situation_of
from ml_models.layers.forms import set_forms
from ml_models.layers.linear import add_gradients_to_buffers
from ml_models.platforms import get_platform
from ml_models.platforms.device_core import WEIGHT_GRADIENTS
from ml_models.platforms.patch import restored, temporarily

UNEVEN = tuple(
    restored(
        f"megatron.core.tensor_parallel.mappings:{name}",
        "gloo's pieces are padded to equal sizes, which costs kernels that no device has",
    )
    for name in ("_gather_along_first_dim", "_reduce_scatter_along_first_dim")
)
"""Collectives of unequal pieces, as a device's library has them."""


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
    kernels: KernelSettings = KernelSettings()
    """Requests for forms."""
    device: str = "cpu"
    """Type of the device whose forms are used; the tensors are on the CPU in any case."""
    packages: frozenset[str] = frozenset()
    """Modules that count as installed there beside torch, such as triton."""


@dataclass(frozen=True, kw_only=True)
class StepCosts:
    """What a step launches, in order."""

    kernels: tuple[Kernel, ...]
    """Kernels of the device, and collectives (kind "communication")."""
    host_waits: tuple[str, ...]
    """What made the host wait for the device."""


def fake_step(step: LayerStep) -> StepCosts:
    """The costs of a step, run on fake tensors. Opens and closes torch.distributed.

    Raises RequirementError for a torch that is too old.
    """
    check_torch()
    with _process_groups(step), FakeTensorMode(allow_non_fake_inputs=True):
        recorder = FakeStepRecorder(step.model.moe_router_topk)
        with temporarily(stand_ins(recorder)), HostRanges(), _kernels_of_device(step, recorder):
            _run(step, recorder)
    return StepCosts(kernels=tuple(recorder.kernels), host_waits=tuple(recorder.host_waits))


def real_step(step: LayerStep) -> StepCosts:
    """The same on real tensors of the CPU: what the fake step is held to, at small sizes."""
    recorder = Recorder()
    with _process_groups(step):
        _run(step, recorder)
    return StepCosts(kernels=tuple(recorder.kernels), host_waits=tuple(recorder.host_waits))


@contextlib.contextmanager
def _kernels_of_device(step: LayerStep, recorder: FakeStepRecorder) -> Iterator[None]:
    """Inside, attention computes in the kernels and blocks of a device."""
    if step.device == "cpu":
        yield
        return
    rows = (*attention_stand_ins(recorder), WEIGHT_GRADIENTS, *UNEVEN)
    with temporarily(rows), flash_attn_stand_in(recorder):
        yield


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
    if step.device != "cpu":
        _choose_forms(step, built)
    wrapped = DistributedDataParallel(
        config, DistributedDataParallelConfig(grad_reduce_in_fp32=True), built
    )
    add_gradients_to_buffers(wrapped)
    return wrapped


def _choose_forms(step: LayerStep, built: torch.nn.Module) -> None:
    """Give the layer the forms that it would have on the device."""
    dtype = str(step.dtype).removeprefix("torch.")
    here = situation_of(step.model, device=step.device, dtype=dtype)
    with temporarily(installed_packages(step.packages)):
        set_forms(built, step.kernels, here)
