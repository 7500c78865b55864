"""Loss and gradient are means over the targets of the global batch, however it is cut."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from jobs import run_job


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    output = tmp_path_factory.mktemp("per_token") / "results.json"
    run_job(Path(__file__).with_name("per_token_worker.py"), output, processes=2, timeout=240)
    return dict(json.loads(output.read_text()))


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
@pytest.mark.parametrize("pp", [1, 2])
@pytest.mark.parametrize("name", ["product", "core"])
def test_every_cut_gives_the_mean_over_targets(
    results: dict[str, dict[str, float]], name: str, pp: int, micro_batch_size: int
) -> None:
    numbers = results[f"{name}, PP {pp}, micro batches of {micro_batch_size}"]
    wanted = results["reference"]
    assert numbers["norm"] == pytest.approx(wanted["norm"], rel=1e-5)
    if name == "product":  # megatron-core leaves the loss that is reported to its caller
        assert numbers["loss"] == pytest.approx(wanted["loss"], rel=1e-6)
        assert numbers["validation"] == pytest.approx(wanted["loss"], rel=1e-6)
