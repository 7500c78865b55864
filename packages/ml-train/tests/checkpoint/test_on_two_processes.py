"""Saving and loading on two gloo processes; the scenarios are in worker.py."""

import json
from pathlib import Path
from typing import Any

import pytest
from jobs import run_job

from ml_models.megatron_core.lines import CORE_LINE
from ml_train.checkpoint.directory.store import POINTER

HERE = Path(__file__).parent
ONLY_0_16 = pytest.mark.skipif(CORE_LINE == "0.12", reason="distributed optimizer on the CPU")
RESUME = [
    "resume_ep2",
    "resume_pp2_bf16",
    pytest.param("resume_tp2", marks=pytest.mark.slow),
    pytest.param("resume_ep2_bf16_distributed", marks=ONLY_0_16),
    pytest.param("resume_dp2_distributed", marks=[ONLY_0_16, pytest.mark.slow]),
]
RESHARD = [
    pytest.param("reshard_ep2_to_tp2", marks=[ONLY_0_16, pytest.mark.slow]),
    pytest.param("reshard_pp2_to_dp2_distributed", marks=[ONLY_0_16, pytest.mark.slow]),
    pytest.param("reshard_ep2_distributed_to_pp2", marks=ONLY_0_16),
    pytest.param("reshard_bf16_distributed_to_tp2", marks=ONLY_0_16),
]


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs in one job what the selected tests ask for; gives the results per rank."""
    wanted = []
    for item in request.session.items:
        if item.path == request.path:
            skipped = any(mark.args and mark.args[0] for mark in item.iter_markers("skipif"))
            name = item.callspec.params["name"] if hasattr(item, "callspec") else item.name[5:]
            if not skipped:
                wanted.append(name)
    folder = tmp_path_factory.mktemp("checkpoints")
    run_job(HERE / "worker.py", folder, *dict.fromkeys(wanted), processes=2, timeout=300)

    def result(name: str) -> Any:
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["ranks"]

    return result


@pytest.mark.parametrize("name", RESUME)
def test_resume_is_exact(results: Any, name: str) -> None:
    for rank in results(name):
        assert rank["resumed"] == rank["losses"]
        assert rank["digests"][0] == rank["digests"][1]
        assert rank["consumed_samples"] == 16


@pytest.mark.parametrize("name", RESHARD)
def test_another_layout_takes_every_bit(results: Any, name: str) -> None:
    for rank in results(name):
        assert rank["differing"] == []
        tolerance = 2e-4 if "bf16" in name else 1e-5
        assert rank["resumed"] == pytest.approx(rank["losses"], rel=tolerance)


def test_in_background(results: Any) -> None:
    for rank in results("in_background"):
        assert len(set(rank["digests"])) == 1
        assert rank["equal"]


def test_full_disk(results: Any) -> None:
    for rank in results("full_disk"):
        step_1, step_3 = "iter_0000001", "iter_0000003"
        assert rank["names"] == [[step_1, POINTER], [step_1, POINTER], [step_1, step_3, POINTER]]
        assert rank["errors"][0] is None and rank["errors"][2] is None
        assert "rank 1" in rank["errors"][1] and "No space left" in rank["errors"][1]
        assert any("step 2 is NOT saved" in text for text in rank["said"])
        assert rank["iteration"] == 3


def test_slow_disk(results: Any) -> None:
    for rank in results("slow_disk"):
        assert rank == {"errors": [None, None], "names": ["iter_0000001", "iter_0000002", POINTER]}


def test_refusals(results: Any) -> None:
    first, second = results("refusals")
    assert first == second
    assert "another model's: attention_logit_cap is 30.0 there and None" in first["other model"]
    if CORE_LINE == "0.12":
        assert "only in the layout that saved it; use megatron-core 0.16.1" in first["other layout"]
    else:
        assert first["other layout"] == "loaded 2"
    assert "absent does not exist" in first["nothing there"]
    assert first["first start"] == "loaded None"
    assert first["one of them"] == "loaded 1"
    assert "--no-load-optim --no-load-rng" in first["no optimizer"]
    assert first["model alone"] == "loaded 0"
    assert first["damaged"] == "loaded 1"
    assert "passed over" in first["passed over"] and "__1_0.distcp" in first["passed over"]
    assert "iter_0000002 cannot be used" in first["damaged by name"]
    assert "none of its 2 checkpoints can be used. The newest: " in first["none whole"]


def test_signals(results: Any) -> None:
    for rank in results("signals"):
        assert rank["iteration"] == 3
        assert rank["reason"].startswith("SIGUSR1 received")
        assert rank["names"] == ["iter_0000003", POINTER]
        assert rank["handler"]
