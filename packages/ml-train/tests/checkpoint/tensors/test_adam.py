"""A resumed run goes on with Adam's step, wherever the optimizer keeps it."""

from pathlib import Path

import pytest
import torch
from group_step_adam import DeviceStepAdam, FusedAdam
from tiny_runs import done, records, tokens, train

from ml_models.megatron_core import differences
from ml_train.checkpoint.tensors.adam import adam_step, set_adam_step


@pytest.mark.parametrize("kind", ["apex", "mindspeed"])
@pytest.mark.parametrize("distributed", [False, True])
def test_a_step_in_the_parameter_group_is_resumed_to_the_bit(
    tmp_path: Path, kind: str, distributed: bool
) -> None:
    if distributed and not differences.saves_distributed_optimizer():
        pytest.skip("this line cannot save the distributed optimizer")
    prefix, words = tokens(tmp_path), ("--use-distributed-optimizer",) if distributed else ()
    whole, again = tmp_path / "whole", tmp_path / "again"
    done(train(whole, prefix, *words, adam=kind))
    done(train(again, prefix, *words, "--exit-interval", "3", adam=kind))
    done(train(again, prefix, *words, "--load", str(again), adam=kind))
    losses = [
        [(step["iteration"], step["loss"], step["grad_norm"]) for step in records(folder, "report")]
        for folder in (whole, again)
    ]
    assert len(losses[0]) == 8
    assert losses[1] == losses[0]


class CapturableAdam(FusedAdam):
    capturable = True


@pytest.mark.parametrize(
    ("optimizer", "kept"),
    [
        (FusedAdam, 7),
        (DeviceStepAdam, torch.tensor(7)),
        (CapturableAdam, torch.tensor([7], dtype=torch.int32)),
    ],
)
def test_the_step_has_the_form_that_the_optimizer_makes(
    optimizer: type[FusedAdam], kept: int | torch.Tensor
) -> None:
    class Wrapped:
        """megatron-core's wrapper, as far as it is read."""

    wrapped = Wrapped()
    wrapped.optimizer = optimizer([torch.nn.Parameter(torch.zeros(2))])
    set_adam_step(wrapped, 7)
    step = wrapped.optimizer.param_groups[0]["step"]
    assert type(step) is type(kept) and step == kept
    assert getattr(step, "dtype", None) == getattr(kept, "dtype", None)
    assert adam_step(wrapped) == 7
    set_adam_step(wrapped, 9)
    assert type(wrapped.optimizer.param_groups[0]["step"]) is type(kept)
    assert adam_step(wrapped) == 9
