"""One training step of a model in a layout, with everything that a reference file holds."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ml_models import probe, shards
from ml_models.build import build_model, make_transformer_config, pad_vocab_size
from ml_models.config import ModelConfig
from model_checks.process import layout


def run_step(
    config: ModelConfig,
    weights: dict[str, Tensor] | None,
    ids: Tensor,
    sizes: tuple[int, int, int, int],
    training: dict[str, Any] | None = None,
) -> dict[str, Tensor] | None:
    """On rank 0: logits, loss, hidden_states.I, final_norm, router_logits.I and grad.KEY, whole.

    Every data-parallel rank sees the same batch. None on the other ranks.
    """
    tp, pp, ep, etp = sizes
    layout(tp, pp, ep, etp)
    settings = _settings(config, sizes, training or {})
    model = _build(config, settings)
    if weights is not None:
        shards.assign(model, weights)
    outputs, loss = _forward_backward(model, settings, ids)
    return _collect(model, outputs, loss, ids, tp)


def initial_weights(
    config: ModelConfig, sizes: tuple[int, int, int, int], seed: int = 1234
) -> dict[str, Tensor] | None:
    """On rank 0: the initial parameters, whole, by key; on every rank the same check is run."""
    layout(*sizes)
    model = _build(config, _settings(config, sizes, {}), seed)
    own_part = [
        (shard.key, shard.global_shape, shards.place_of(shard), shard.data.detach().clone())
        for shard in shards.local_shards(model)
    ]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, own_part)
    whole: dict[str, Tensor] = {}
    for part in everyone:
        for key, shape, slices, value in part:
            whole.setdefault(key, torch.full(shape, float("nan")))[slices] = value
    return whole if torch.distributed.get_rank() == 0 else None


def _settings(
    config: ModelConfig, sizes: tuple[int, int, int, int], training: dict[str, Any]
) -> Any:
    tp, pp, ep, etp = sizes
    return make_transformer_config(
        config,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        expert_model_parallel_size=ep,
        expert_tensor_parallel_size=etp,
        sequence_parallel=tp > 1,
        pipeline_dtype=torch.float32,
        **training,
    )


def _build(config: ModelConfig, settings: Any, seed: int = 1234) -> Any:
    from megatron.core import parallel_state

    return build_model(
        config,
        settings,
        seed=seed,
        padded_vocab_size=pad_vocab_size(config.vocab_size, 8, 2),
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
    )


def _forward_backward(
    model: Any, settings: Any, ids: Tensor
) -> tuple[dict[str, Tensor], Tensor | None]:
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.pipeline_parallel import get_forward_backward_func

    wrapped = DistributedDataParallel(settings, DistributedDataParallelConfig(), model)
    wrapped.zero_grad_buffer()
    settings.finalize_model_grads_func = finalize_model_grads
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    kept: dict[str, Tensor] = {}

    def loss_of(logits: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        kept["logits"] = logits.detach()
        losses = model.compute_language_model_loss(
            ids.roll(-1, dims=1), logits.transpose(0, 1).contiguous()
        )
        loss = losses[:, :-1].mean()
        kept["loss"] = loss.detach().clone()
        return loss, {"loss": loss.detach()}

    def forward_step(_: Any, chunk: Any) -> tuple[Tensor, Any]:
        return chunk(ids, positions, None), partial(loss_of)

    with probe.record(model) as recorded:
        get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=None,
            model=[wrapped],
            num_microbatches=1,
            seq_length=ids.shape[1],
            micro_batch_size=ids.shape[0],
            decoder_seq_length=ids.shape[1],
        )
    # Autograd nodes hold core's hooks, these the wrapper, that the model, and its token dispatchers
    # tensors with such nodes: a circle that no garbage collector sees, so that each model would
    # keep its process groups, and their threads, for ever.
    vars(wrapped).clear()
    loss = kept.pop("loss", None)
    return {**kept, **recorded}, loss


def _collect(
    model: Any, outputs: dict[str, Tensor], loss: Tensor | None, ids: Tensor, tp: int
) -> dict[str, Tensor] | None:
    """Put the ranks' parts together on rank 0."""
    from megatron.core import parallel_state

    batch, length = ids.shape
    local: dict[str, Any] = {}
    for key, value in outputs.items():
        if key != "logits":
            value = value.reshape(length // tp, batch, -1).transpose(0, 1)
        local[key] = value.contiguous()
    grads = [
        (shard.key, shard.global_shape, shards.place_of(shard), parameter.main_grad.clone())
        for shard, parameter in _with_parameters(model)
    ]
    own_part = (parallel_state.get_tensor_model_parallel_rank(), local, loss, grads)
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, own_part)
    if torch.distributed.get_rank() != 0:
        return None
    return _assemble(everyone, tp)


def _with_parameters(model: Any) -> list[tuple[Any, Any]]:
    by_storage = {p.data_ptr(): p for p in model.parameters()}
    return [(shard, by_storage[shard.data.data_ptr()]) for shard in shards.local_shards(model)]


def _assemble(everyone: list[Any], tp: int) -> dict[str, Tensor]:
    whole: dict[str, Tensor] = {}
    for key in {key for _, local, _, _ in everyone for key in local}:
        parts = {rank: local[key] for rank, local, _, _ in everyone if key in local}
        axis = 2 if key == "logits" else 1
        whole[key] = torch.cat([parts[rank] for rank in range(tp)], dim=axis)
    for _, _, loss, grads in everyone:
        if loss is not None:
            whole["loss"] = loss
        for key, shape, slices, grad in grads:
            whole.setdefault(f"grad.{key}", torch.full(shape, float("nan")))[slices] = grad
    return whole
