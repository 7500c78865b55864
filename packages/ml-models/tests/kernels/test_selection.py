"""A form serves, or the reason is said: by device, by request, by what hinders."""

from dataclasses import replace

import pytest

from ml_models import registry
from ml_models.errors import ConfigError
from ml_models.kernels.selection import (
    ANY_DEVICE,
    Form,
    Operation,
    Request,
    Situation,
    choose,
)
from ml_models.kernels.table import OPERATIONS, KernelSettings, choices, situation_of
from ml_models.scoring import Scoring

SITUATION = Situation(device="cuda", dtype="bfloat16", scoring=Scoring(scale=0.5), head_size=16)


def only_without_cap(situation: Situation) -> str:
    return "" if situation.scoring.cap is None else f"it has no cap {situation.scoring.cap}"


OPERATION = Operation(
    name="mixing",
    forms=(
        Form(name="plain", text="everywhere"),
        Form(name="quick", text="without a cap", hindrance=only_without_cap),
    ),
    order={"cuda": ("quick", "plain"), ANY_DEVICE: ("plain",)},
    requests={"fast": Request(flag="--fast-mixing", forms=("quick",))},
)


def test_the_devices_order_decides_and_names_what_was_hindered() -> None:
    assert choose(OPERATION, SITUATION).form == "quick"
    assert choose(OPERATION, replace(SITUATION, device="tpu")).form == "plain"
    capped = choose(OPERATION, replace(SITUATION, scoring=Scoring(0.5, 30.0)))
    assert capped.form == "plain"
    assert capped.reason == "the default on cuda; not quick: it has no cap 30.0"


def test_a_request_is_met_or_refused_with_its_flag_and_the_reason() -> None:
    asked = choose(OPERATION, replace(SITUATION, device="cpu"), "fast")
    assert (asked.form, asked.reason) == ("quick", "--fast-mixing")
    with pytest.raises(ConfigError, match=r"--fast-mixing.*mixing.*not quick: it has no cap 30"):
        choose(OPERATION, replace(SITUATION, scoring=Scoring(0.5, 30.0)), "fast")
    with pytest.raises(ConfigError, match="'slow'; known: auto, fast"):
        choose(OPERATION, SITUATION, "slow")


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_has_a_form_on_every_device(name: str) -> None:
    operation = OPERATIONS[name]
    names = {form.name for form in operation.forms}
    named = [*operation.order.values(), *(request.forms for request in operation.requests.values())]
    assert all(set(forms) <= names for forms in named)
    for device in ("cpu", "cuda", "npu", "another"):
        for model in ("grok1-tiny", "grok1-40b-guide", "mixtral-tiny"):
            situation = situation_of(registry.get(model), device=device, dtype="bfloat16")
            choice = choose(operation, situation)
            assert choice.form in names and choice.reason.startswith(f"the default on {device}")


def test_the_cpu_keeps_the_blocked_form() -> None:
    for model in ("grok1-tiny", "mixtral-tiny"):
        situation = situation_of(registry.get(model), device="cpu", dtype="float32")
        assert choices(KernelSettings(), situation)[0].form == "blocked"
