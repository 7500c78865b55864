"""Loss and gradient norm of one step on two processes, cut in several ways: torchrun ... OUTPUT.

Each cut is computed by TrainModule and by megatron-core's calculate_per_token_loss. The reference
is plain autograd of the mean over all targets, without a schedule and without data parallelism.
"""

# ruff: noqa: E402 (megatron-core is imported once it can be)

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from ml_models import registry
from ml_models.platforms import make_core_importable

make_core_importable()

from ml_train.bring_up import start_platform
from ml_train.config.run import RunConfig
from ml_train.config.sections.model import ModelSection
from ml_train.config.sections.parallel import ParallelSection
from ml_train.config.sections.training import TrainingSection
from ml_train.parallel.groups import process_groups
from ml_train.parallel.layout import World, make_layout
from ml_train.training.verdict import Action, Verdict

BATCH, LENGTH, VOCABULARY = 8, 16, 128


def samples() -> dict[str, torch.Tensor]:
    """A global batch whose sequences have 0 to 16 targets; the first two have none."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1), generator=generator)
    mask = torch.ones(BATCH, LENGTH)
    for row, targets in enumerate((0, 0, 1, 16, 3, 16, 7, 2)):
        mask[row, targets:] = 0
    return {
        "tokens": ids[:, :-1].contiguous(),
        "labels": ids[:, 1:].contiguous(),
        "loss_mask": mask,
        "position_ids": torch.arange(LENGTH).expand(BATCH, LENGTH).contiguous(),
    }


def own_batches(layout: Any, micro_batch_size: int, rank: int) -> list[Any]:
    """This data rank's micro batches, as GlobalOrder deals them."""
    parts = {key: value.split(micro_batch_size) for key, value in samples().items()}
    numbers = range(rank, BATCH // micro_batch_size, layout.dp)
    return [{key: parts[key][number] for key in parts} for number in numbers]


def run_config(micro_batch_size: int, pp: int) -> RunConfig:
    return RunConfig(
        model=ModelSection(moe_router_load_balancing_type="none"),
        parallel=ParallelSection(pipeline_model_parallel_size=pp, distributed_timeout_minutes=1.0),
        training=TrainingSection(micro_batch_size=micro_batch_size, global_batch_size=BATCH),
    )


def modules(config: RunConfig, model: Any, layout: Any, platform: Any) -> dict[str, Any]:
    """TrainModule, and the same with megatron-core's own division by the number of targets."""
    from ml_train.training.build import model_chunks, transformer_config
    from ml_train.training.optimizer import make_optimizer
    from ml_train.training.schedule import make_schedule
    from ml_train.training.train_module import Parts, TrainModule

    class CoreModule(TrainModule):
        def _forward_step(self, batches: Any, chunk: Any) -> tuple[Any, Any]:
            batch = next(batches)
            output = chunk(batch["tokens"], batch["position_ids"], None, labels=batch["labels"])

            def summed(losses: torch.Tensor) -> Any:
                total = (losses.float() * batch["loss_mask"]).sum()
                number = batch["loss_mask"].sum().to(torch.int)
                return total, number, {"loss": total.detach().clone()}

            return output, summed

    made = {}
    for name, kind in (("product", TrainModule), ("core", CoreModule)):
        transformer = transformer_config(config, model, layout, platform.device)
        transformer.calculate_per_token_loss = name == "core"
        chunks = model_chunks(config, model, layout, transformer)
        optimizer = make_optimizer(config, chunks, platform)
        schedule = make_schedule(optimizer, config.optimizer, config.training.train_iters)
        parts = Parts(
            transformer_config=transformer,
            model_chunks=chunks,
            optimizer=optimizer,
            opt_param_scheduler=schedule,
        )
        made[name] = kind(
            model_config=model,
            parts=parts,
            layout=layout,
            micro_batch_size=config.training.micro_batch_size,
            device=platform.device,
        )
    return made


def step(module: Any, batches: list[Any]) -> dict[str, float]:
    """Loss, and the norm of the gradient, without an update."""
    seen: dict[str, float] = {}

    def look(gradients: Any) -> Verdict:
        seen["loss"], seen["norm"] = gradients.loss, gradients.norm()
        return Verdict(action=Action.SKIP)

    module.train_step(batches, before_update=look)
    seen["validation"] = module.eval_step(batches).mean
    return seen


def reference(module: Any) -> dict[str, float]:
    """The mean over all targets of the global batch, by autograd alone."""
    chunk = module.model_chunks[0].module
    chunk.train()
    whole = samples()
    losses = chunk(whole["tokens"], whole["position_ids"], None, labels=whole["labels"])
    loss = (losses * whole["loss_mask"]).sum() / whole["loss_mask"].sum()
    parameters = list(chunk.parameters())
    for parameter in parameters:
        parameter.main_grad.zero_()
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    # The experts add theirs to main_grad themselves.
    squares = sum(
        float(
            (gradient if parameter.main_grad.abs().sum() == 0 else parameter.main_grad)
            .double()
            .square()
            .sum()
        )
        for gradient, parameter in zip(gradients, parameters, strict=True)
        if gradient is not None
    )
    return {"loss": float(loss.detach()), "norm": squares**0.5}


def main() -> None:
    world = World.from_environment(os.environ)
    small = {"num_layers": 2, "vocab_size": VOCABULARY, "seq_length": LENGTH, "num_experts": 4}
    small |= {"hidden_size": 32, "ffn_hidden_size": 64, "kv_channels": 8, "num_query_groups": 2}
    model = registry.get("grok1-tiny").replace(num_attention_heads=4, **small)
    platform = start_platform("cpu", local_rank=world.local_rank)
    results: dict[str, Any] = {}
    for pp in (1, 2):
        for micro_batch_size in (1, 2, 4):
            config = run_config(micro_batch_size, pp)
            layout = make_layout(
                config.parallel,
                model,
                world_size=world.size,
                micro_batch_size=micro_batch_size,
                global_batch_size=BATCH,
            )
            with (
                platform.context(),
                process_groups(layout, world, platform, config.parallel, seed=1),
            ):
                from megatron.core import parallel_state

                rank = parallel_state.get_data_parallel_rank()
                for name, module in modules(config, model, layout, platform).items():
                    numbers = step(module, own_batches(layout, micro_batch_size, rank))
                    results[f"{name}, PP {pp}, micro batches of {micro_batch_size}"] = numbers
                    if name == "product" and pp == 1 and micro_batch_size == 1:
                        results["reference"] = reference(module)
    if world.rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
