"""A resumed run is the uninterrupted one to the bit, with expert parallelism too."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from forks import Forks
from test_invariance import config_of

from ml_models.megatron_core.lines import CORE_LINE
from ml_train.diagnosis import layouts, resumed_runs, verify_resume
from ml_train.errors import ConfigError
from ml_train.pretrain import refuse_for_the_core_line

LACKING_0_12 = pytest.mark.skipif(CORE_LINE == "0.12", reason="refused by name")
ONLY_0_12 = pytest.mark.skipif(
    CORE_LINE != "0.12", reason="the distributed optimizer stands for it"
)


@pytest.mark.skipif(CORE_LINE != "0.12", reason="0.16 saves it")
def test_what_core_0_12_lacks_is_refused_by_name(tmp_path: Path) -> None:
    parts = config_of("plain")
    config = dataclasses.replace(
        parts,
        optimizer=dataclasses.replace(parts.optimizer, use_distributed_optimizer=True),
        checkpoint=dataclasses.replace(parts.checkpoint, save=str(tmp_path)),
    )
    with pytest.raises(ConfigError, match="--use-distributed-optimizer on megatron-core 0.12.1"):
        refuse_for_the_core_line(config)
    saved = dataclasses.replace(config.checkpoint, no_save_optim=True)
    refuse_for_the_core_line(dataclasses.replace(config, checkpoint=saved))


@pytest.mark.parametrize(
    ("family", "layout", "bf16"),
    [
        pytest.param("starving", "ep2-distopt-overlap", False, marks=LACKING_0_12),
        pytest.param("starving", "ep2", False, marks=ONLY_0_12),
        pytest.param("starving", "tp2-etp1-pp2-ep2", True, marks=pytest.mark.slow),
        pytest.param("starving", "etp2-dp2", True, marks=pytest.mark.slow),
        pytest.param("grok2", "tp2-etp1-pp2-ep2", False),
        pytest.param("grok2", "tp2-ep2-dp2-distopt", True, marks=[pytest.mark.slow, LACKING_0_12]),
    ],
)
def test_a_resumed_run(family: str, layout: str, bf16: bool, tmp_path: Path, forks: Forks) -> None:
    config = config_of(family)
    (_, plan), _ = layouts.plan(config, config.model.resolve(), [layout], skip_illegal=False)
    rows = verify_resume.verify_resume(
        dataclasses.replace(
            plan.config,
            training=dataclasses.replace(plan.config.training, bf16=bf16),
            checkpoint=dataclasses.replace(plan.config.checkpoint, no_save_optim=False),
        ),
        steps=2,
        num_processes=plan.num_processes,
        folder=tmp_path,
        start_run=forks.start,
    )
    kinds = {row.what.split(" (")[0]: row for row in rows}
    assert {"parameters", "first moments", "second moments", "random states"} <= set(kinds)
    assert all(row.differing == 0 for row in rows), resumed_runs.table(rows)
    assert kinds["parameters"].compared > 30_000
