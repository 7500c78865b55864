"""A planned rank against real ranks: four processes with gloo on the CPU."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from jobs import run_job
from planned_runs import PROCESSES, RUNS

from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.planning.legality import layout_of
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.rank_plan import RankPlan, plan_rank


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Layout -> what each rank counted."""
    output = tmp_path_factory.mktemp("ranks") / "results.json"
    worker = Path(__file__).with_name("rank_worker.py")
    run_job(worker, output, processes=PROCESSES, timeout=300)
    return dict(json.loads(output.read_text()))


def planned(name: str) -> list[RankPlan]:
    loaded = load_config(parse(RUNS[name]))
    layout = layout_of(loaded.config, loaded.model, PROCESSES)
    platform = MetaPlatform()
    platform.apply()
    with platform.context():
        return [
            plan_rank(loaded.config, loaded.model, layout, rank, platform=platform)
            for rank in range(PROCESSES)
        ]


@pytest.mark.parametrize("name", RUNS)
def test_a_planned_rank_holds_and_sends_what_a_real_rank_does(
    real: dict[str, list[dict[str, Any]]], name: str
) -> None:
    for plan, counted in zip(planned(name), real[name], strict=True):
        assert plan.stage == counted["stage"]
        held = counted["held"]
        assert plan.held.parameters == held["parameters"]
        assert plan.held.gradients == held["gradients"]
        assert plan.held.main_parameters == held["main_parameters"]
        assert plan.held.moments == held["moments"]
        assert plan.activations == pytest.approx(counted["activations"], rel=0.1)
        assert messages(plan.traffic) == messages(counted["traffic"])


def messages(traffic: Any) -> Counter[tuple[str, str]]:
    """Message bytes by kind and parallelism, of what is sent over a group."""
    sums: Counter[tuple[str, str]] = Counter()
    for entry in traffic:
        fields = entry if isinstance(entry, dict) else vars(entry)
        sums[fields["kind"], fields["parallelism"]] += fields["message_bytes"]
    return sums
