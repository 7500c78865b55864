"""A training run of 70 thousand parameters without the Trainer: what checkpoint tests need.

The data of a step is a function of the step alone and each rank takes its share of it, so that
runs under different layouts see the same global batches.
"""

import hashlib
import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from ml_models import build, registry
from ml_models.megatron_core import differences
from ml_models.process_groups import backends_outlive_groups

BATCH, LENGTH = 8, 16


class SmallRun:
    """Quacks like a TrainModule as far as CheckpointManager looks."""

    def __init__(
        self,
        *,
        tp: int = 1,
        pp: int = 1,
        ep: int = 1,
        etp: int = 1,
        distributed_optimizer: bool = False,
        bf16: bool = False,
        model: dict[str, Any] | None = None,
        seed: int = 1234,
    ):
        from megatron.core import tensor_parallel
        from megatron.core.distributed import finalize_model_grads

        with backends_outlive_groups():
            parallel_state.destroy_model_parallel()
            # megatron-core forgets its groups, but each keeps threads that poll.
            for group in list(dist.distributed_c10d._world.pg_map):
                if group is not dist.group.WORLD:
                    dist.destroy_process_group(group)
        differences.forget_embedding_ranks()
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=tp,
            pipeline_model_parallel_size=pp,
            expert_model_parallel_size=ep,
            expert_tensor_parallel_size=etp,
            create_gloo_process_groups=True,
        )
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed + dist.get_rank())
        tensor_parallel.model_parallel_cuda_manual_seed(seed)
        small = {"num_layers": 2, "vocab_size": 120, "seq_length": LENGTH}
        small |= {"hidden_size": 32, "ffn_hidden_size": 64, "num_experts": 4}
        small |= {"num_attention_heads": 4, "num_query_groups": 2, "kv_channels": 8}
        self.model_config = registry.get("grok1-tiny").replace(**{**small, **(model or {})})
        dtype = torch.bfloat16 if bf16 else torch.float32
        self.transformer_config = build.make_transformer_config(
            self.model_config,
            tensor_model_parallel_size=tp,
            pipeline_model_parallel_size=pp,
            expert_model_parallel_size=ep,
            expert_tensor_parallel_size=etp,
            sequence_parallel=tp > 1,
            bf16=bf16,
            params_dtype=dtype,
            pipeline_dtype=dtype,
            moe_router_load_balancing_type="aux_loss",
            moe_aux_loss_coeff=0.01,
        )
        self.transformer_config.finalize_model_grads_func = finalize_model_grads
        self.model_chunks = [self._wrapped_model(bf16, tp, distributed_optimizer)]
        self.optimizer, self.opt_param_scheduler = self._optimizer(
            bf16, dtype, distributed_optimizer
        )

    def _wrapped_model(self, bf16: bool, tp: int, distributed_optimizer: bool) -> Any:
        from megatron.core.distributed import (
            DistributedDataParallel,
            DistributedDataParallelConfig,
        )
        from megatron.core.transformer.module import Float16Module

        model: Any = build.build_model(
            self.model_config,
            self.transformer_config,
            padded_vocab_size=build.pad_vocab_size(self.model_config.vocab_size, 16, tp),
            pre_process=parallel_state.is_pipeline_first_stage(),
            post_process=parallel_state.is_pipeline_last_stage(),
        )
        if bf16:
            model = Float16Module(self.transformer_config, model)
        return DistributedDataParallel(
            self.transformer_config,
            DistributedDataParallelConfig(
                grad_reduce_in_fp32=True, use_distributed_optimizer=distributed_optimizer
            ),
            model,
        )

    def _optimizer(self, bf16: bool, dtype: torch.dtype, distributed: bool) -> Any:
        from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
        from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

        config = OptimizerConfig(
            optimizer="adam",
            lr=1e-3,
            min_lr=0.0,
            weight_decay=0.1,
            clip_grad=1.0,
            bf16=bf16,
            params_dtype=dtype,
            use_distributed_optimizer=distributed,
        )
        optimizer = get_megatron_optimizer(config, self.model_chunks)
        scheduler = OptimizerParamScheduler(
            optimizer,
            init_lr=0.0,
            max_lr=1e-3,
            min_lr=0.0,
            lr_warmup_steps=2,
            lr_decay_steps=20,
            lr_decay_style="cosine",
            start_wd=0.1,
            end_wd=0.1,
            wd_incr_steps=20,
            wd_incr_style="constant",
        )
        return optimizer, scheduler

    def step(self, number: int) -> float:
        """One optimizer step; returns the loss, the same on every rank."""
        from megatron.core.pipeline_parallel import get_forward_backward_func

        chunk = self.model_chunks[0]
        dp = parallel_state.get_data_parallel_world_size()
        rank = parallel_state.get_data_parallel_rank()
        generator = torch.Generator().manual_seed(number)
        ids = torch.randint(
            0, self.model_config.vocab_size, (BATCH, LENGTH + 1), generator=generator
        )
        samples = iter(ids[rank * BATCH // dp : (rank + 1) * BATCH // dp].split(1))

        def forward(batches: Any, model: Any) -> Any:
            tokens = next(batches)
            positions = torch.arange(LENGTH)[None]
            output = model(
                tokens[:, :-1].contiguous(), positions, None, labels=tokens[:, 1:].contiguous()
            )

            def loss(output: torch.Tensor) -> Any:
                mean = output.float().mean()
                return mean, {"loss": mean.detach().clone()}

            return output, loss

        chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        results = get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=samples,
            model=[chunk],
            num_microbatches=BATCH // dp,
            seq_length=LENGTH,
            micro_batch_size=1,
            decoder_seq_length=LENGTH,
            forward_only=False,
        )
        self.optimizer.step()
        self.opt_param_scheduler.step(increment=1)
        # A draw on every rank: a random state that is not restored shows in the next digest.
        torch.rand(1)
        total = torch.tensor(
            [sum(float(shard["loss"]) for shard in results) if results else 0.0],
            dtype=torch.float64,
        )
        dist.all_reduce(total)
        model_ranks = parallel_state.get_tensor_model_parallel_world_size()
        return float(total) / (BATCH * model_ranks)

    def parameters(self) -> dict[str, torch.Tensor]:
        """This rank's parameters by name."""
        return {
            name.replace("module.", ""): parameter.detach()
            for name, parameter in self.model_chunks[0].named_parameters()
        }

    def digest(self) -> str:
        """Of parameters, optimizer and random states of all ranks: equal only if every bit is."""
        own = hashlib.sha256()
        for name, parameter in sorted(self.parameters().items()):
            own.update(name.encode())
            own.update(parameter.contiguous().view(torch.uint8).numpy().tobytes())
        for leaf in getattr(self.optimizer, "chained_optimizers", [self.optimizer]):
            for state in leaf.optimizer.state.values():
                for name in ("exp_avg", "exp_avg_sq", "step"):
                    own.update(state[name].contiguous().reshape(-1).view(torch.uint8).numpy())
            for group in leaf.optimizer.param_groups:
                own.update(repr((group["lr"], group["weight_decay"])).encode())
                for parameter in group["params"]:
                    data = parameter.detach().contiguous().reshape(-1).view(torch.uint8)
                    own.update(data.numpy())
        own.update(torch.get_rng_state().numpy())
        own.update(repr((random.getstate(), np.random.get_state()[1].tolist())).encode())
        everywhere: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everywhere, own.hexdigest())
        return hashlib.sha256("".join(everywhere).encode()).hexdigest()
