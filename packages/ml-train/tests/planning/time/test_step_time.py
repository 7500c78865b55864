"""Seconds of work and messages: against figures that can be computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ml_models.platforms.devices import Device, device
from ml_train.errors import ConfigError
from ml_train.planning.time.rates import fitted_rates
from ml_train.planning.time.step_time import message_seconds, step_time, work_seconds
from ml_train.planning.time.work import Messages, Products, StepWork, Work, total

CARD = Device(
    name="card",
    title="card",
    names=(),
    memory_bytes=80e9,
    tflops={"bfloat16": 100.0},
    memory_bytes_per_second=1e12,
    intra_node_bytes_per_second=100e9,
    inter_node_bytes_per_second=10e9,
    devices_per_node=8,
    source="",
)
RATES = replace(
    fitted_rates(),
    product_share={"bfloat16": 0.5},
    attention_share=0.25,
    memory_share=1.0,
    intra_node_share=1.0,
    inter_node_share=0.5,
    seconds_per_kernel=1e-6,
    seconds_per_routing=1e-3,
    seconds_per_message=0.0,
    exposed_share=0.1,
    imbalance=1.5,
)
LARGE = Products(rows=8192, columns=8192, inner=8192, count=2)


def messages(kind: str, size: int, local: int, amount: float = 1e9) -> Messages:
    return Messages(
        parallelism="ep",
        kind=kind,
        group_size=size,
        ranks_in_node=local,
        calls=1,
        message_bytes=amount,
    )


def seconds(item: Messages) -> float:
    return message_seconds([item], CARD, RATES)["ep"]


def step(**changes: object) -> StepWork:
    work = StepWork(
        microbatch=Work(products=(LARGE,)),
        messages=(),
        step_messages=(),
        update=Work(memory_bytes=1e9),
        num_microbatches=8,
        pp=4,
        vp=1,
        tokens=8192,
        model_flops=LARGE.flops,
    )
    return replace(work, **changes)  # type: ignore[arg-type]


def test_a_large_product_runs_at_its_share_and_a_thin_one_at_the_memory() -> None:
    large = work_seconds(Work(products=(LARGE,)), CARD, RATES)["products"]
    assert large == pytest.approx(LARGE.flops / 50e12 * (8192 + 128) / 8192)
    thin = Products(rows=1, columns=8192, inner=8192, count=1)
    assert work_seconds(Work(products=(thin,)), CARD, RATES)["products"] == pytest.approx(
        thin.moved_bytes / 1e12
    )


def test_kernels_attention_and_memory_have_rates_of_their_own() -> None:
    work = Work(attention_cost=25e12, memory_bytes=2e12, kernels=1000, routings=2)
    assert work_seconds(work, CARD, RATES) == pytest.approx(
        {"products": 0.0, "attention": 1.0, "memory": 2.0, "host": 3e-3}
    )


def test_equal_products_are_counted_together() -> None:
    summed = total([Work(products=(LARGE,)), Work(products=(LARGE,), kernels=3)]).times(0.5)
    assert summed.products == (LARGE,)
    assert summed.kernels == 1.5


@pytest.mark.parametrize(
    ("item", "taken"),
    [
        (messages("all-gather", 4, 4), 0.75 / 100),
        (messages("all-reduce", 4, 4), 1.5 / 100),
        # Two nodes with four ranks: half of the message crosses, over four connections.
        (messages("all-gather", 8, 4), 0.5 / 4 / 5),
        # A rank sends half of its tokens to the other node, over its own connection.
        (messages("all-to-all", 8, 4), 0.5 / 5),
        (messages("all-to-all", 4, 4), 0.75 / 100),
        (messages("send", 4, 1), 1 / 5),
        (messages("receive", 4, 1), 0.0),
    ],
)
def test_a_message_takes_the_slower_of_both_links(item: Messages, taken: float) -> None:
    assert seconds(item) == pytest.approx(taken)


def test_a_pipeline_waits_for_its_filling() -> None:
    plain, interleaved = (step_time(step(vp=vp), CARD, RATES) for vp in (1, 3))
    microbatch = plain.parts["products"] / 8
    assert plain.parts["bubble"] == pytest.approx(3 * microbatch)
    assert interleaved.parts["bubble"] == pytest.approx(microbatch)
    assert plain.bubble_share == pytest.approx(3 * microbatch / plain.expected)
    assert plain.low < plain.expected < plain.high
    assert sum(plain.parts.values()) == pytest.approx(plain.expected)
    assert plain.tokens_per_second == 8192 / plain.expected


def test_overlap_hides_gradients_as_far_as_the_backward_pass_lasts() -> None:
    short = messages("reduce-scatter", 8, 8, amount=1e8)
    long = messages("reduce-scatter", 8, 8, amount=1e12)
    for item, hidden in ((short, True), (long, False)):
        alone, beside = (
            step_time(step(step_messages=(item,), overlap_grad_reduce=overlap), CARD, RATES)
            for overlap in (False, True)
        )
        saved = alone.parts["dp"] - beside.parts["dp"]
        if hidden:
            assert saved == pytest.approx(0.9 * alone.parts["dp"])
        else:
            assert saved == pytest.approx(alone.parts["products"] / 8 * 2 / 3)


def test_a_device_without_a_peak_of_the_dtype_is_refused() -> None:
    lower = Work(products=(replace(LARGE, dtype="float8"),))
    with pytest.raises(ConfigError, match="card has no dense peak for float8; known: bfloat16"):
        step_time(step(microbatch=lower), CARD, RATES)


def test_no_step_is_faster_than_the_peaks_of_a_device() -> None:
    time = step_time(step(pp=1), device("h100"), fitted_rates())
    assert time.model_flops_utilisation < 1
    assert 8 * LARGE.flops / 989e12 < time.expected


def test_the_host_counts_only_where_it_is_slower_than_the_device() -> None:
    computing = LARGE.flops / 50e12 * (8192 + 128) / 8192
    fast, slow = (
        step_time(step(microbatch=Work(products=(LARGE,), kernels=kernels)), CARD, RATES)
        for kernels in (10, 100_000)
    )
    assert "host" not in fast.parts
    assert slow.parts["host"] == pytest.approx(8 * (0.1 - computing))
    captured = step_time(
        step(microbatch=Work(products=(LARGE,), kernels=100_000), captured=True),
        CARD,
        replace(RATES, captured_share=0.9),
    )
    assert captured.parts["host"] == pytest.approx(8 * (0.09 - computing))


def test_uneven_routing_and_overlap_of_experts() -> None:
    exchange = messages("all-to-all", 4, 4)
    plain, uneven, beside = (
        step_time(step(messages=(exchange,), **changes), CARD, RATES)
        for changes in ({}, {"balanced": False}, {"overlap_experts": True})
    )
    assert "imbalance" not in plain.parts
    busy = plain.parts["products"] + plain.parts["ep"]
    assert uneven.parts["imbalance"] == pytest.approx(0.5 * busy)
    assert beside.parts["ep"] == pytest.approx(RATES.overlapped_share * plain.parts["ep"])
