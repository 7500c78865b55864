"""One rank of a stock megatron-core MoE model trained on the cpu platform; prints losses as JSON.

Usage: training_worker.py TP PP EP ETP {plain|distributed} {fp32|bf16}, with RANK and so on set.
"""

import functools
import json
import os
import sys
import warnings

import torch

from ml_models.platforms import get_platform
from ml_models.process_groups import destroy_process_groups

warnings.filterwarnings("ignore")


class Norm(torch.nn.Module):
    """RMSNorm that allows sequence parallelism, which the stock one refuses."""

    def __init__(self, config, hidden_size, eps=1e-5, **options):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel
        self.eps = eps

    def forward(self, x):
        return torch.nn.functional.rms_norm(x, x.shape[-1:], self.weight, self.eps)


def main() -> None:
    tp, pp, ep, etp = (int(text) for text in sys.argv[1:5])
    distributed, bf16 = sys.argv[5] == "distributed", sys.argv[6] == "bf16"
    platform = get_platform("cpu")
    torch.distributed.init_process_group("gloo")
    platform.apply()
    platform.apply()
    with platform.context():
        losses = train(tp, pp, ep, etp, distributed, bf16)
    assert not torch.cuda.is_initialized()
    if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
        print(json.dumps(losses), flush=True)
    torch.distributed.barrier()
    destroy_process_groups()


def transformer_config(tp, pp, ep, etp, bf16):
    from megatron.core.transformer import TransformerConfig

    dtype = torch.bfloat16 if bf16 else torch.float32
    return TransformerConfig(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=64,
        num_moe_experts=4,
        moe_router_topk=2,
        moe_token_dispatcher_type="alltoall",
        use_cpu_initialization=True,
        add_bias_linear=False,
        gated_linear_unit=True,
        normalization="RMSNorm",
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        expert_model_parallel_size=ep,
        expert_tensor_parallel_size=etp,
        sequence_parallel=tp > 1,
        pipeline_dtype=dtype,
        params_dtype=dtype,
        bf16=bf16,
        gradient_accumulation_fusion=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        moe_aux_loss_coeff=1e-2,
        moe_router_load_balancing_type="aux_loss",
    )


def train(tp, pp, ep, etp, distributed, bf16):
    from megatron.core import parallel_state
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.models.gpt import GPTModel, gpt_layer_specs
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.core.transformer.module import Float16Module

    parallel_state.initialize_model_parallel(
        tp,
        pp,
        expert_model_parallel_size=ep,
        expert_tensor_parallel_size=etp,
        create_gloo_process_groups=True,
    )
    model_parallel_cuda_manual_seed(1)
    config = transformer_config(tp, pp, ep, etp, bf16)
    dtype = config.params_dtype
    spec = gpt_layer_specs.get_gpt_layer_local_spec(num_experts=4, normalization="RMSNorm")
    spec.submodules.input_layernorm = Norm
    spec.submodules.pre_mlp_layernorm = Norm
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

    layers = TransformerBlockSubmodules(layer_specs=[spec] * (2 // pp), layer_norm=Norm)
    model = GPTModel(
        config,
        layers,
        vocab_size=128,
        max_sequence_length=16,
        position_embedding_type="rope",
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
    )
    # Weights that are the same in every layout: constant along what is divided, by name.
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            layer = name.partition("layers.")[2].partition(".")[0]
            salt = len(name) + int(layer or 0) + (parallel_state.get_pipeline_model_parallel_rank())
            wave = torch.arange(parameter.shape[-1], dtype=torch.float32) + salt
            if not name.endswith(("linear_fc2.weight", "linear_proj.weight")):
                parameter.data.copy_((wave.sin() * 0.05).to(dtype).expand_as(parameter))
    if bf16:
        model = Float16Module(config, model)
    model = DistributedDataParallel(
        config,
        DistributedDataParallelConfig(
            use_distributed_optimizer=distributed, grad_reduce_in_fp32=True
        ),
        model,
    )
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=1e-3,
            bf16=bf16,
            params_dtype=dtype,
            use_distributed_optimizer=distributed,
            clip_grad=0.01,
        ),
        [model],
    )
    config.finalize_model_grads_func = finalize_model_grads
    config.grad_scale_func = optimizer.scale_loss
    generator = torch.Generator().manual_seed(3)
    data = torch.randint(0, 128, (2, 2, 16), generator=generator)
    positions = torch.arange(16)[None].expand(2, -1)
    mask = torch.ones(1, 1, 16, 16, dtype=torch.bool).triu(1)

    def step(iterator, chunk):
        ids = next(iterator)
        output = chunk(ids, positions, mask, labels=ids)
        return output, functools.partial(mean_loss)

    def mean_loss(output):
        loss = output.float().mean()
        return loss, {"loss": loss.detach()}

    found = []
    for _ in range(3):
        model.zero_grad_buffer()
        optimizer.zero_grad()
        reports = get_forward_backward_func()(
            forward_step_func=step,
            data_iterator=iter(data),
            model=[model],
            num_microbatches=2,
            seq_length=16,
            micro_batch_size=2,
            forward_only=False,
        )
        updated, norm, _ = optimizer.step()
        assert updated and norm > 0
        found.append(sum(float(report["loss"]) for report in reports) / 2 if reports else None)
    return found


if __name__ == "__main__":
    main()
