"""Verdicts from numbers alone."""

import json
import math
from typing import Any

import pytest

from ml_train.config.sections.health import HealthSection
from ml_train.health.bad_steps.judge import Judge

SPIKES = {"check_for_spiky_loss": True, "check_for_large_grads": True, "spike_window": 3}


def judge(losses: list[float] = [2.0, 2.1, 1.9], **settings: Any) -> Judge:  # noqa: B006
    made = Judge(HealthSection(**settings))
    for loss in losses:
        made.accept(loss, 10 * loss)
    return made


@pytest.mark.parametrize(
    ("loss", "finite", "norm", "kind"),
    [
        (math.nan, False, None, "nan_loss"),
        (-math.inf, True, None, "nan_loss"),
        (2.0, False, None, "nan_grad"),
        (2.0, True, math.inf, "nan_grad"),
        (4.01, True, 20.0, "spiky_loss"),
        (4.0, True, 20.0, None),
        (2.0, True, 201.0, "large_grads"),
        (2.0, True, 200.0, None),
        (4.01, True, 201.0, "spiky_loss"),
    ],
)
def test_kinds(loss: float, finite: bool, norm: float | None, kind: str | None) -> None:
    assert judge(**SPIKES).fault(loss, gradients_finite=finite, grad_norm=norm) == kind


def test_spikes_are_looked_for_only_where_asked_and_with_a_full_window() -> None:
    assert judge().fault(1e9, gradients_finite=True, grad_norm=1e9) is None
    assert judge([2.0, 2.0], **SPIKES).fault(1e9, gradients_finite=True, grad_norm=1e9) is None


def test_off_means_no_verdict() -> None:
    silent = judge(check_for_nan_in_loss_and_grad=False, **SPIKES)
    assert silent.fault(math.nan, gradients_finite=False, grad_norm=None) is None


def test_a_spike_that_was_let_through_does_not_raise_the_bar() -> None:
    assert (
        judge([2.0, 50.0, 2.0], **SPIKES).fault(4.5, gradients_finite=True, grad_norm=None)
        == "spiky_loss"
    )


def test_history_survives_a_checkpoint_to_the_bit() -> None:
    first = judge([0.1 + 0.2, 1 / 3, 2.0, 7.0], **SPIKES)
    again = judge([], **SPIKES)
    again.restore(json.loads(json.dumps(first.state())))
    assert again.state() == first.state() == {
        "losses": [1 / 3, 2.0, 7.0], "norms": [10 * (1 / 3), 20.0, 70.0],
    }  # fmt: skip
    assert judge().state() == {"losses": [], "norms": []}


def test_words_name_the_numbers_and_the_policy() -> None:
    fault = judge(spiky_loss_policy="skip", **SPIKES).describe("spiky_loss", 9.0, None)
    assert fault.policy == "skip"
    assert fault.text == (
        "the loss is 9.0000, above --spiky-loss-factor 2 x 2.0000, the median of the last 3"
    )
