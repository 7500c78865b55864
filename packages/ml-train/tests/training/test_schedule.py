"""The learning rate of each step, against the formula of a linear warm-up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from ml_train.config.sections.optimizer import OptimizerSection
from ml_train.training.schedule import schedule_steps


def learning_rates(settings: OptimizerSection, train_iters: int) -> list[float]:
    """Of the first `train_iters` updates, from megatron-core's own schedule."""
    group = {"params": [], "lr": 0.0, "weight_decay": 0.0}
    warmup, decay = schedule_steps(settings, train_iters)
    schedule = OptimizerParamScheduler(
        SimpleNamespace(param_groups=[group]),
        init_lr=0.0,
        max_lr=settings.lr,
        min_lr=settings.min_lr,
        lr_warmup_steps=warmup,
        lr_decay_steps=decay,
        lr_decay_style=settings.lr_decay_style,
        start_wd=0.0,
        end_wd=0.0,
        wd_incr_steps=decay,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )
    rates = []
    for _ in range(train_iters):
        rates.append(float(group["lr"]))
        schedule.step(increment=1)
    return rates


@pytest.mark.parametrize("style", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"lr_warmup_iters": 2000}, 2000),
        ({"lr_warmup_iters": 4}, 4),
        ({"lr_warmup_fraction": 1.0}, 4),
        ({"lr_warmup_fraction": 1.0, "lr_decay_iters": 8}, 8),
    ],
)
def test_a_warm_up_as_long_as_the_run_or_longer_ramps(
    style: str, given: dict[str, float], steps: int
) -> None:
    settings = OptimizerSection(lr=0.5, lr_decay_style=style, **given)
    assert learning_rates(settings, 4) == pytest.approx([0.5 * n / steps for n in range(4)])


def test_a_shorter_warm_up_is_followed_by_the_decay() -> None:
    settings = OptimizerSection(lr=1.0, lr_decay_style="linear", lr_warmup_iters=2)
    assert learning_rates(settings, 6) == pytest.approx([0.0, 0.5, 1.0, 0.75, 0.5, 0.25])
