"""The learning rate as a function of steps: linear warm-up, then megatron-core's decay."""

from typing import TYPE_CHECKING

from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from ml_train.config.sections.optimizer import OptimizerSection

if TYPE_CHECKING:
    from megatron.core.optimizer.optimizer import MegatronOptimizer


def make_schedule(
    optimizer: "MegatronOptimizer", settings: OptimizerSection, train_iters: int
) -> OptimizerParamScheduler:
    """The schedule that sets the optimizer's learning rate; the weight decay stays constant."""
    warmup, decay = schedule_steps(settings, train_iters)
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=settings.lr,
        min_lr=settings.min_lr,
        lr_warmup_steps=warmup,
        lr_decay_steps=decay,
        lr_decay_style=settings.lr_decay_style,
        start_wd=settings.weight_decay,
        end_wd=settings.weight_decay,
        wd_incr_steps=decay,
        wd_incr_style="constant",
        # The flags of this start decide, not what a checkpoint holds.
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )


def schedule_steps(settings: OptimizerSection, train_iters: int) -> tuple[int, int]:
    """(steps of warm-up, steps until the end of the decay, warm-up included).

    megatron-core wants a decay that is longer than its warm-up. Where the warm-up takes the whole
    run, or more than that, the decay is the one step after it, which the run does not reach.
    """
    decay = settings.lr_decay_iters or max(train_iters, 1)
    warmup = settings.lr_warmup_iters
    if settings.lr_warmup_fraction is not None:
        warmup = int(settings.lr_warmup_fraction * decay)
    return warmup, max(decay, warmup + 1)
