"""From configuration to the model of a TrainModule: its chunks, in gradient buffers."""

from typing import TYPE_CHECKING, Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.transformer.module import Float16Module

from ml_models.build import build_model, make_transformer_config, pad_vocab_size
from ml_models.layers.linear import add_gradients_to_buffers
from ml_models.megatron_core import differences
from ml_train.config.run import RunConfig
from ml_train.parallel.layout import Layout

if TYPE_CHECKING:
    from megatron.core.transformer import TransformerConfig

    from ml_models.config import ModelConfig


def transformer_config(
    config: RunConfig, model: "ModelConfig", layout: Layout, device: torch.device
) -> "TransformerConfig":
    """megatron-core's TransformerConfig of a run, whose parameters are made on `device`."""
    training, section, parallel = config.training, config.model, config.parallel
    dtype = torch.bfloat16 if training.bf16 else torch.float32
    fields: dict[str, Any] = {
        "tensor_model_parallel_size": layout.tp,
        "pipeline_model_parallel_size": layout.pp,
        "expert_model_parallel_size": layout.ep,
        "expert_tensor_parallel_size": layout.etp,
        "sequence_parallel": layout.sequence_parallel,
        "bf16": training.bf16,
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "moe_router_load_balancing_type": section.moe_router_load_balancing_type,
        "moe_aux_loss_coeff": section.moe_aux_loss_coeff
        if section.moe_router_load_balancing_type != "none"
        else 0.0,
        "moe_z_loss_coeff": section.moe_z_loss_coeff,
        "moe_expert_capacity_factor": section.moe_expert_capacity_factor,
        "recompute_granularity": training.recompute_granularity,
        "recompute_method": training.recompute_method,
        "recompute_num_layers": training.recompute_num_layers,
        # Asked for and checked as a form of the operation permutation (kernels/forms.py).
        "moe_permute_fusion": config.kernels.moe_permute_fusion,
        "deterministic_mode": training.deterministic_mode,
        "num_layers_in_first_pipeline_stage": parallel.decoder_first_pipeline_num_layers,
        "num_layers_in_last_pipeline_stage": parallel.decoder_last_pipeline_num_layers,
    }
    if section.init_method_std is not None:
        fields["init_method_std"] = section.init_method_std
    if layout.vp > 1:
        fields["virtual_pipeline_model_parallel_size"] = layout.vp
        # With two stages the next and the previous stage are the same peer. megatron-core's batched
        # sends mix up the two directions then; separate ones do not.
        fields["overlap_p2p_comm"] = True
        fields["batch_p2p_comm"] = False
    return make_transformer_config(model, device=device, **fields)


def model_chunks(
    config: RunConfig,
    model: "ModelConfig",
    layout: Layout,
    transformer: "TransformerConfig",
) -> list[DistributedDataParallel]:
    """This rank's virtual stages, wrapped for mixed precision and data parallelism."""
    padded = pad_vocab_size(model.vocab_size, config.model.make_vocab_size_divisible_by, layout.tp)
    chunks = []
    for number in range(layout.vp):
        stage = number if layout.vp > 1 else None
        if stage is not None:
            parallel_state.set_virtual_pipeline_model_parallel_rank(stage)
        first, last = differences.is_first_and_last_stage(stage)
        chunk = build_model(
            model,
            transformer,
            padded_vocab_size=padded,
            pre_process=first,
            post_process=last,
            vp_stage=stage,
            seed=config.training.seed,
            execution=config.model.execution,
            kernels=config.kernels.settings(),
        )
        chunks.append(Float16Module(transformer, chunk) if config.training.bf16 else chunk)
    return _data_parallel(config, layout, transformer, chunks)


def bucket_size(config: RunConfig, layout: Layout) -> int | None:
    """Parameters in a bucket of gradients that are reduced together; None for all of a chunk.

    Megatron's rule: with more ranks buckets are larger, so that the part of each rank is still
    limited by bandwidth and not by latency.
    """
    return max(40_000_000, 1_000_000 * layout.dp) if config.parallel.overlap_grad_reduce else None


def _data_parallel(
    config: RunConfig,
    layout: Layout,
    transformer: "TransformerConfig",
    chunks: list[torch.nn.Module],
) -> list[DistributedDataParallel]:
    """Give each chunk its gradient buffers, which are reduced over the data-parallel ranks."""
    overlap = config.parallel.overlap_grad_reduce
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=overlap,
        overlap_param_gather=config.parallel.overlap_param_gather,
        use_distributed_optimizer=config.optimizer.use_distributed_optimizer,
        check_for_nan_in_grad=False,
        bucket_size=bucket_size(config, layout),
    )
    wrapped = []
    first_stage = parallel_state.get_pipeline_model_parallel_rank() == 0
    for number, chunk in enumerate(chunks):
        # Only the first chunk overlaps from the start of the backward pass, as in Megatron.
        bucketed = overlap and number == 0 and first_stage
        arguments = differences.gradient_layout_arguments(chunk, ddp, bucketed=bucketed)
        wrapped.append(
            DistributedDataParallel(
                transformer, ddp, chunk, disable_bucketing=number > 0, **arguments
            )
        )
        add_gradients_to_buffers(wrapped[-1])
    return wrapped
