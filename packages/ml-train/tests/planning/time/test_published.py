"""Published runs: what a row says, and rates that are fitted without looking at the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml_train.planning.time.closed_form import step_work
from ml_train.planning.time.fit import Fitter
from ml_train.planning.time.published import job, model_facts, published_rows, published_runs
from ml_train.planning.time.rates import fitted_rates, rates_of
from ml_train.planning.time.rates_file import rates_text


def test_flops_of_every_row_are_those_that_the_collection_counts() -> None:
    for row, run in zip(published_rows(), published_runs(), strict=True):
        per_token = run.work.model_flops / run.work.tokens / 1e9
        assert per_token == pytest.approx(row.gflop_per_token, rel=0.01), row.id


def test_every_row_has_a_source_and_uses_no_more_than_its_device_has() -> None:
    for row, run in zip(published_rows(), published_runs(), strict=True):
        assert "@" in row.source or " at " in row.source or "://" in row.source, row.id
        peak = run.device.peak_tflops(run.dtype)
        assert peak is not None
        assert run.work.model_flops / run.seconds < 0.8 * peak * 1e12, row.id


def test_grok1_on_512_h100_has_its_published_share_of_the_peak() -> None:
    (run,) = [run for run in published_runs() if run.id == "dgxc-25.05-grok1-h100-512-bf16"]
    assert (run.work.pp, run.work.vp, run.work.num_microbatches) == (8, 8, 128)
    assert run.work.model_flops / run.seconds / 989e12 == pytest.approx(0.542, abs=0.002)


def test_tokens_that_experts_of_a_node_share_are_sent_to_it_once() -> None:
    (run,) = [run for run in published_runs() if run.id == "mb-26.04.01-deepseek-v3-b200-256-mxfp8"]
    row = next(row for row in published_rows() if row.id == run.id)
    exchanges = [
        next(item for item in work.messages if item.kind == "all-to-all")
        for work in (run.work, step_work(model_facts(row), job(row, run.device)))
    ]
    # The eight experts of a token, chosen among four nodes, lie on 3.6 of them.
    nodes = 4 * (1 - 0.75**8)
    assert exchanges[0].message_bytes / exchanges[1].message_bytes == pytest.approx(nodes / 8)


@pytest.fixture(scope="module")
def fitter() -> Fitter:
    return Fitter(published_runs())


def test_the_rates_of_the_package_are_those_that_the_rows_give(fitter: Fitter) -> None:
    fit = fitter.fit()
    # The range comes from the errors of rows that were left out, which take a minute.
    fit = replace(fit, rates=replace(fit.rates, spread=fitted_rates().spread))
    stored = rates_of("h100")
    fresh = fit.rates.slower(fit.slower["H100 SXM"])
    assert stored.memory_share == pytest.approx(fresh.memory_share, rel=2e-3)
    assert stored.product_share["bfloat16"] == pytest.approx(
        fresh.product_share["bfloat16"], rel=2e-3
    )
    assert "[devices.h100]" in rates_text(fit)
    for share in (*fresh.product_share.values(), fresh.attention_share, fresh.memory_share):
        assert 0.2 < share < 1


def test_a_model_that_is_left_out_has_no_say_in_its_prediction(fitter: Fitter) -> None:
    runs = published_runs()
    inside = np.array([run.model == "Grok-1 314B" for run in runs])
    predicted = fitter.seconds(fitter.fit(~inside))[inside]
    other = Fitter(
        [
            replace(run, seconds=3 * run.seconds) if chosen else run
            for run, chosen in zip(runs, inside, strict=True)
        ]
    )
    np.testing.assert_allclose(other.seconds(other.fit(~inside))[inside], predicted, rtol=1e-9)
    published = np.array([run.seconds for run in runs])[inside]
    assert np.median(np.abs(predicted / published - 1)) < 0.15


def test_a_device_that_is_left_out_is_predicted_from_its_figures(fitter: Fitter) -> None:
    runs = published_runs()
    inside = np.array([run.device_name == "GB200" for run in runs])
    fit = fitter.fit(~inside)
    assert fit.slower["GB200"] == pytest.approx(1)
    published = np.array([run.seconds for run in runs])
    wrong = np.abs(fitter.seconds(fit) / published - 1)
    experts = np.array([run.is_moe for run in runs])
    assert np.median(wrong[inside & experts]) < 0.15


def test_a_device_without_published_runs_says_so() -> None:
    rates = rates_of("a-card-of-mine")
    assert "none of which is of this device" in rates.source
    assert rates.memory_share == fitted_rates().memory_share
