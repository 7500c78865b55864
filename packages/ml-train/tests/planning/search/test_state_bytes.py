"""Closed forms of parameters, gradients and optimizer state against built ranks, to the byte."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from searched_runs import MODELS, loaded, planning, space_of

from ml_train.config.load import LoadedConfig
from ml_train.planning.fake_groups import rank_of
from ml_train.planning.held import HeldBytes, held_bytes
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.search.parameters import catalogue
from ml_train.planning.search.space import Candidate
from ml_train.planning.search.state_bytes import state_bytes
from ml_train.training.train_module import TrainModule

SHAPES = ("tp", "pp", "vp", "ep", "etp")
SETTINGS = {
    "fp32": (),
    "bf16": ("--bf16",),
    "distopt": ("--use-distributed-optimizer",),
    "bf16-distopt": ("--bf16", "--use-distributed-optimizer"),
    "bf16-distopt-overlap": ("--bf16", "--use-distributed-optimizer", "--overlap-grad-reduce"),
}


def built(run: LoadedConfig, candidate: Candidate, stage: int, platform: MetaPlatform) -> HeldBytes:
    layout = candidate.layout
    rank = stage * (layout.world // layout.pp)
    with rank_of(layout, rank, platform), platform.device:
        return held_bytes(TrainModule.build(candidate.config, run.model, layout, platform))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("model", MODELS)
def test_closed_forms_equal_built_ranks(
    model: str, settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layouts of 24 devices, whose factor three meets the padding of buffers."""
    if "overlap" in settings:
        for module in ("ml_train.training.build", "ml_train.planning.search.state_bytes"):
            # The rule's 40 million elements would leave these small models a single bucket.
            monkeypatch.setattr(f"{module}.bucket_size", lambda *_: 5000)
    run = loaded(model, *SETTINGS[settings])
    layouts = space_of(run, 24, vary=SHAPES)
    # Every settings starts elsewhere, so that together they meet many layouts.
    chosen = layouts[list(SETTINGS).index(settings) * 3 :: len(layouts) // 6]
    assert len(chosen) >= 5
    with planning() as platform:
        kinds = catalogue(run.config, run.model, platform)
        for candidate in chosen:
            for stage in sorted({0, candidate.layout.pp - 1}):
                figures = state_bytes(kinds, candidate.config, run.model, candidate.layout, stage)
                assert figures == built(run, candidate, stage, platform), (candidate.title, stage)


def test_uneven_stages_are_the_runs_own() -> None:
    run = loaded(
        "grok1",
        *("--pipeline-model-parallel-size", "2", "--decoder-first-pipeline-num-layers", "1"),
        *("--bf16", "--use-distributed-optimizer"),
    )
    uneven = [item for item in space_of(run, 4, vary=("tp", "ep")) if "ends 1/None" in item.title]
    assert uneven
    with planning() as platform:
        kinds = catalogue(run.config, run.model, platform)
        for stage in (0, 1):
            figures = state_bytes(kinds, uneven[0].config, run.model, uneven[0].layout, stage)
            assert figures == built(run, uneven[0], stage, platform)
