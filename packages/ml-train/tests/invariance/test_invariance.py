"""The same numbers in every layout: cases.py against one process, at the issue's tolerances."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cases import Case, covering_set, rows_with_every_value
from forks import Forks

from ml_train.config.run import RunConfig
from ml_train.config.sections.model import ModelSection
from ml_train.config.sections.training import TrainingSection
from ml_train.diagnosis import layouts, verify_layouts
from ml_train.diagnosis.choices import read_logits

SHAPE = {
    **{"vocab_size": 512, "num_layers": 4, "hidden_size": 64, "ffn_hidden_size": 64},
    **{"num_attention_heads": 4, "num_query_groups": 2, "kv_channels": 16},
}
GROK2_SHAPE = {"dense_ffn_hidden_size": 96, "attention_temperature_length": 8}
"""The temperature starts within the sequence."""
LENGTH, EXPERTS = {False: 32, True: 4}, {False: 4, True: 16}
"""By whether experts starve: 8 slots of a micro batch cannot feed 16 experts."""
ROWS = covering_set()
BIG = Case(family="plain", layout="tp2-pp2-ep2-distopt-overlap", num_processes=8, values=())
GROK2 = [
    Case(family="grok2", layout="tp2-etp1-pp2-ep2", num_processes=4, values=()),
    Case(family="grok2", layout="pp2-ep2-dp2-vpp2-distopt-overlap", num_processes=4, values=()),
    Case(family="grok2", layout="tp2-ep2-dp2-distopt", num_processes=4, values=()),
]
TWINS = [
    (row, words)
    for words in ("recompute-async", "selective-async")
    for row in rows_with_every_value(ROWS)
]
SHORT_ROWS, SHORT_TWINS = ROWS[:6], [(ROWS[0], "recompute-async"), (ROWS[1], "selective-async")]


def config_of(family: str) -> RunConfig:
    starving = "starving" in family
    grok2 = "grok2" in family
    extra = GROK2_SHAPE if grok2 else {}
    shape = {**SHAPE, **extra, "num_experts": EXPERTS[starving], "seq_length": LENGTH[starving]}
    return RunConfig(
        model=ModelSection(
            model="grok2-tiny" if grok2 else "grok1-tiny",
            model_override=tuple(f"{name}={value}" for name, value in shape.items()),
            moe_router_load_balancing_type="none" if "unbalanced" in family else "aux_loss",
            moe_z_loss_coeff=1e-3,
            moe_expert_capacity_factor=1.0 if "drop" in family else None,
        ),
        training=TrainingSection(global_batch_size=8),
    )


class Runs:
    """Each run once: the one-process run of each family, and the layouts."""

    def __init__(self, folder: Path, forks: Forks):
        self.folder, self._forks = folder, forks
        self._plans: dict[tuple[str, str], layouts.Plan] = {}

    def plan(self, family: str, layout: str) -> layouts.Plan:
        """After its run."""
        if (family, layout) not in self._plans:
            config = config_of(family)
            names = [] if layout == "one process" else [layout]
            plans, _ = layouts.plan(config, config.model.resolve(), names, skip_illegal=False)
            work = self.folder / family
            work.mkdir(exist_ok=True)
            verify_layouts.run_plan(plans[-1], work, self._forks.start)
            self._plans[family, layout] = plans[-1]
        return self._plans[family, layout]

    def compare(self, family: str, first: str, second: str) -> verify_layouts.Result:
        plans = self.plan(family, first), self.plan(family, second)
        return verify_layouts.compare_runs(*plans, self.folder / family)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Runs:
    return Runs(tmp_path_factory.mktemp("invariance"), forks)


def marked(short: bool) -> list[pytest.MarkDecorator]:
    return [] if short else [pytest.mark.slow]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(row, id=row.id, marks=marked(row in (*SHORT_ROWS, *GROK2[:2])))
        for row in [*ROWS, BIG, *GROK2]
    ],
)
def test_a_layout_gives_the_numbers_of_one_process(case: Case, runs: Runs) -> None:
    result = runs.compare(case.family, "one process", case.layout)
    print(f"\n{case.id} on {case.num_processes} processes: {result.describe()}")
    assert result.agrees, result


@pytest.mark.parametrize(
    ("case", "words"),
    [
        pytest.param(row, words, id=f"{row.id}+{words}", marks=marked(twin in SHORT_TWINS))
        for twin in [*TWINS, *(parameter for parameter in SHORT_TWINS if parameter not in TWINS)]
        for row, words in [twin]
    ],
)
def test_recomputation_and_background_saves_change_no_bit(
    case: Case, words: str, runs: Runs
) -> None:
    result = runs.compare(case.family, case.layout, f"{case.layout}-{words}")
    assert result.identical, result


def test_the_set_is_small_and_whole() -> None:
    families = {case.family for case in [*ROWS, BIG]}
    assert len(ROWS) + 1 + len(families) + len({(r.id, w) for r, w in [*TWINS, *SHORT_TWINS]}) <= 40
    named = {word for row in ROWS for word in row.layout.split("-")}
    assert {"tp2", "etp1", "etp2", "pp2", "vpp2", "uneven", "ep2", "dp2", "mbs2"} <= named
    assert {"distopt", "overlap"} <= named


def test_experts_do_starve_and_tokens_are_dropped(runs: Runs) -> None:
    plans = {family: runs.plan(family, "one process") for family in ("starving", "drop", "plain")}
    logits = read_logits(runs.folder / "starving" / "one-process.logits", step=1)
    chosen = np.argsort(-logits, axis=-1)[..., : plans["starving"].topk]
    for layer in chosen:
        for sequence in layer:
            assert len(set(sequence.flatten().tolist())) < EXPERTS[True]
    result = runs.compare("plain", "one process", "one process")
    assert result.identical
    losses = [
        verify_layouts.read_step_numbers(runs.folder / family / "one-process.jsonl")[1][0]
        for family in ("plain", "drop")
    ]
    assert abs(losses[0] - losses[1]) > 1e-5
