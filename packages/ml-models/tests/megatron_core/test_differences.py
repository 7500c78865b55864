"""What is told about the differences of megatron-core's lines."""

import pytest

from ml_models.megatron_core import differences, lines


@pytest.mark.parametrize("supported", lines.SUPPORTED, ids=lambda line: line.name)
def test_the_way_out_names_a_release_that_has_what_is_missing(
    supported: lines.SupportedLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differences, "installed_line", lambda: supported.name)
    both = differences.saves_distributed_optimizer() and differences.reshards_optimizer()
    first = differences.first_release_of_optimizer_state()
    assert first == "0.16.1"
    assert both == (lines.order_of(supported.name) >= lines.order_of(first))
