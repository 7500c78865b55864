"""The check of a megatron-core that no test has run on: what it finds, what it says."""

import logging

import pytest
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel

from ml_models import build, registry
from ml_models.errors import RequirementError
from ml_models.megatron_core import check, lines


def configure() -> None:
    build.make_transformer_config(registry.get("grok1-tiny"))


def check_line() -> None:
    check.check_unknown_line("ml_models", configure=configure)


@pytest.fixture(autouse=True)
def fresh() -> None:
    check.check_unknown_line.cache_clear()


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed megatron-core, called 0.99."""
    monkeypatch.setattr(lines, "installed_version", lambda: "0.99.0")


def test_only_the_differences_use_what_this_line_lacks() -> None:
    uses = check.uses_of("ml_models")
    assert len(uses) > 50
    assert any(use.call is not None for use in uses)
    faults = check.faults_of("ml_models")
    # The differences between lines live here, and only here.
    apart = ("(ml_models/megatron_core/differences.py:", "(megatron_core/check.py)")
    assert [fault for fault in faults if not any(where in fault for where in apart)] == []
    if lines.order_of(lines.installed_line()) >= (0, 18):
        assert faults == []


@pytest.mark.skipif("lines.order_of(lines.installed_line()) < (0, 18)")
def test_a_newer_line_that_has_everything_goes_on_with_one_warning(
    newer: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with caplog.at_level(logging.WARNING):
        check_line()
        check_line()
    (record,) = caplog.records
    assert "megatron-core 0.99.0 is newer than the lines" in record.getMessage()
    assert f"megatron-core=={lines.default_release()}" in record.getMessage()


def test_a_name_that_went_and_a_keyword_that_went_are_named(
    newer: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(DistributedDataParallel, "start_param_sync")
    monkeypatch.setattr(parallel_state, "get_data_parallel_rank", lambda: 0)
    faults = check.faults_of("ml_models")
    method = "megatron.core.distributed.DistributedDataParallel.start_param_sync"
    assert f"no {method} (megatron_core/check.py)" in faults
    assert any(
        text.startswith("megatron.core.parallel_state.get_data_parallel_rank: got an unexpected")
        and "with_context_parallel" in text
        for text in faults
    )
    with pytest.raises(RequirementError, match=r"0\.99\.0 is newer than all lines.*and differs in"):
        check_line()


def test_a_setting_that_went_is_named(newer: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = build._shape_fields
    monkeypatch.setattr(build, "_shape_fields", lambda model: {**fields(model), "went": 1})
    with pytest.raises(RequirementError, match="TransformerConfig"):
        check_line()


def test_a_tested_line_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "faults_of", lambda package: ["must not be asked"])
    check_line()
