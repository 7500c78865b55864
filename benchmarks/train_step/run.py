"""Seconds of a whole training step, ml-train's against stock megatron-core, in the same run.

    python benchmarks/train_step/run.py [--model tiny mid] [--processes 1 2] [--repeats 9]

fp32 on the CPU. A step is forward, backward, reduction of gradients, clipping and Adam, over two
micro batches per process. `ours` is TrainModule with the router's figures, as Trainer runs it;
`stock` is megatron-core's own modules of the same sizes (no soft cap, no post norms) in the loop of
its examples. Two processes are EP 2 with the distributed optimizer. Steps are alternated: read the
ratios of medians, not the seconds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from ml_train.config.run import RunConfig
from ml_train.config.sections.model import ModelSection
from ml_train.config.sections.optimizer import OptimizerSection
from ml_train.config.sections.parallel import ParallelSection
from ml_train.config.sections.training import TrainingSection
from ml_train.parallel.layout import World, make_layout

MODELS = {
    "tiny": {"vocab_size": 8192},
    "mid": {
        **{"num_layers": 4, "hidden_size": 512, "ffn_hidden_size": 1408, "vocab_size": 16384},
        **{"num_attention_heads": 8, "num_query_groups": 4, "kv_channels": 64, "seq_length": 512},
    },
}
MICRO_BATCHES = 2
Step = Callable[[], float]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        measure(args.model[0], args.repeats)
        return 0
    for model in args.model:
        for processes in args.processes:
            threads = str(max(1, (os.cpu_count() or 1) // processes))
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(processes), __file__, "--worker"]
            command += ["--model", model, "--repeats", str(args.repeats)]
            environment = {**os.environ, "OMP_NUM_THREADS": threads}
            subprocess.run(command, env=environment, check=True)
    return 0


def measure(name: str, repeats: int) -> None:
    """On every rank; rank 0 prints one line of JSON."""
    warnings.simplefilter("ignore")
    world = World.from_environment(os.environ)
    config = run_config(name, world.size)
    model = config.model.resolve()
    layout = make_layout(
        config.parallel,
        model,
        world_size=world.size,
        micro_batch_size=1,
        global_batch_size=config.training.global_batch_size,
    )
    from ml_train.bring_up import start_platform
    from ml_train.parallel.groups import process_groups

    platform = start_platform("cpu", local_rank=world.local_rank)
    with (
        platform.context(),
        process_groups(layout, world, platform, config.parallel, seed=1),
    ):
        generator = torch.Generator().manual_seed(world.rank)
        batches = [batch(model, generator) for _ in range(MICRO_BATCHES)]
        steps = {
            "ours": ours(config, model, layout, platform, batches),
            "stock": stock(config, model, layout, platform, batches),
        }
        seconds: dict[str, list[float]] = {side: [] for side in steps}
        for number in range(repeats + 2):
            for side, step in steps.items():
                torch.distributed.barrier()
                started = time.perf_counter()
                step()
                if number >= 2:
                    seconds[side].append(time.perf_counter() - started)
    if world.rank == 0:
        print(json.dumps(line(name, world.size, seconds)), flush=True)


def line(name: str, processes: int, seconds: dict[str, list[float]]) -> dict[str, Any]:
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["stock"], strict=True)]
    return {
        "model": name,
        "processes": processes,
        "repeats": len(ratios),
        "seconds": {side: round(statistics.median(times), 4) for side, times in seconds.items()},
        "times_as_fast_as_stock": round(statistics.median(ratios), 2),
        "lowest_and_highest": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def run_config(name: str, processes: int) -> RunConfig:
    return RunConfig(
        model=ModelSection(
            model="grok1-tiny",
            model_override=tuple(f"{field}={value}" for field, value in MODELS[name].items()),
        ),
        parallel=ParallelSection(expert_model_parallel_size=processes),
        training=TrainingSection(global_batch_size=MICRO_BATCHES * processes),
        optimizer=OptimizerSection(lr=1e-4, use_distributed_optimizer=processes > 1),
    )


def batch(model: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, model.vocab_size, (1, model.seq_length + 1), generator=generator)
    return {
        "tokens": ids[:, :-1].contiguous(),
        "labels": ids[:, 1:].contiguous(),
        "loss_mask": torch.ones(1, model.seq_length),
        "position_ids": torch.arange(model.seq_length)[None],
    }


def ours(config: Any, model: Any, layout: Any, platform: Any, batches: list[Any]) -> Step:
    from ml_train.training.router_meter import RouterMeter
    from ml_train.training.timing import StepTimers
    from ml_train.training.train_module import TrainModule

    module = TrainModule.build(config, model, layout, platform, timers=StepTimers())
    meter = RouterMeter(
        module.model_chunks, num_layers=model.num_layers, num_experts=model.num_experts
    )

    def step() -> float:
        result = module.train_step(batches)
        meter.collect(num_microbatches=len(batches), device=platform.device)
        return result.loss

    return step


def stock(config: Any, model: Any, layout: Any, platform: Any, batches: list[Any]) -> Step:
    """megatron-core's modules in the loop of its examples/run_simple_mcore_train_loop.py."""
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.pipeline_parallel import get_forward_backward_func

    from ml_train.training.build import transformer_config
    from ml_train.training.optimizer import make_optimizer
    from ml_train.training.schedule import make_schedule

    settings = transformer_config(config, model, layout, torch.device("cpu"))
    settings.activation_func = torch.nn.functional.gelu
    settings.finalize_model_grads_func = finalize_model_grads
    spec = get_gpt_layer_local_spec(
        num_experts=model.num_experts, moe_grouped_gemm=False, normalization="RMSNorm"
    )
    bare = GPTModel(
        settings,
        spec,
        model.vocab_size,
        model.seq_length,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=True,
    )
    wrapped = DistributedDataParallel(
        settings,
        DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            use_distributed_optimizer=config.optimizer.use_distributed_optimizer,
        ),
        bare,
    )
    optimizer = make_optimizer(config, [wrapped], platform)
    schedule = make_schedule(optimizer, config.optimizer, config.training.train_iters)
    settings.grad_scale_func = optimizer.scale_loss
    length = model.seq_length
    mask = torch.ones(length, length, dtype=torch.bool).triu(1)[None, None]

    def forward(iterator: Any, chunk: Any) -> Any:
        batch = next(iterator)
        output = chunk(batch["tokens"], batch["position_ids"], mask, labels=batch["labels"])

        def loss(losses: torch.Tensor) -> Any:
            mean = (losses.float() * batch["loss_mask"]).sum() / batch["loss_mask"].sum()
            return mean, {"loss": mean.detach().clone()}

        return output, loss

    def step() -> float:
        wrapped.train()
        wrapped.zero_grad_buffer()
        optimizer.zero_grad()
        reports = get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=iter(batches),
            model=wrapped,
            num_microbatches=len(batches),
            seq_length=length,
            micro_batch_size=1,
            forward_only=False,
        )
        optimizer.step()
        schedule.step(increment=1)
        loss = torch.stack([report["loss"] for report in reports]).mean()
        torch.distributed.all_reduce(loss)
        return float(loss) / layout.dp

    return step


if __name__ == "__main__":
    raise SystemExit(main())
