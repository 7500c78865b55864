"""Which combinations a search looks at."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from searched_runs import loaded, space_of

from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.errors import ConfigError, LayoutError
from ml_train.parallel.layout import make_layout
from ml_train.planning.search.space import Candidate, Space, candidates


def sizes(candidate: Candidate) -> tuple[int, ...]:
    layout = candidate.layout
    micro_batch = candidate.config.training.micro_batch_size
    return layout.tp, layout.pp, layout.vp, layout.ep, layout.etp, micro_batch


def test_every_legal_combination_is_met_once() -> None:
    """A slow search over all whole numbers, asking make_layout, gives the same set."""
    run = loaded("grok1")
    world, node = 4, 2
    layers = run.model.num_layers
    expected = set()
    for tp, pp, ep, etp, micro_batch in itertools.product(
        range(1, 5), range(1, 5), range(1, 5), range(1, 5), (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 48)
    ):
        for per_stage in (None, *range(1, layers)):
            parallel = run.config.parallel.__class__(
                tensor_model_parallel_size=tp,
                pipeline_model_parallel_size=pp,
                num_layers_per_virtual_pipeline_stage=per_stage,
                expert_model_parallel_size=ep,
                expert_tensor_parallel_size=etp,
            )
            try:
                layout = make_layout(
                    parallel,
                    run.model,
                    world_size=world,
                    micro_batch_size=micro_batch,
                    global_batch_size=48,
                )
            except LayoutError:
                continue
            # A single virtual stage a rank is no virtual stage; ETP stays within a node or TP.
            if etp <= max(tp, node):
                expected.add((tp, pp, layout.vp, ep, etp, micro_batch))
    shapes = ("tp", "pp", "vp", "ep", "etp", "micro-batch")
    met = [sizes(item) for item in space_of(run, world, vary=shapes, devices_per_node=node)]
    assert len(met) == len(set(met))
    assert set(met) == expected


def test_sizes_that_are_not_named_stay_as_the_run_has_them() -> None:
    run = loaded("grok1", "--micro-batch-size", "2", "--tensor-model-parallel-size", "2")
    met = space_of(run, 8, vary=("pp", "ep"))
    assert {item.layout.pp for item in met} == {1, 2, 4}
    assert {(item.layout.tp, item.layout.etp) for item in met} == {(2, 2)}
    assert {item.config.training.micro_batch_size for item in met} == {2}
    assert {item.config.training.recompute_granularity for item in met} == {None}


def test_recomputation_keeps_the_runs_own_form() -> None:
    flags = ("--recompute-granularity", "full", "--recompute-method", "block")
    run = loaded("grok1", *flags, "--recompute-num-layers", "2")
    forms = {
        (training.recompute_granularity, training.recompute_method)
        for training in (item.config.training for item in space_of(run, 2))
    }
    assert forms == {(None, None), ("selective", None), ("full", "uniform"), ("full", "block")}


def test_a_rule_between_sections_holds() -> None:
    """Dropping tokens goes with TP 1 alone: RunConfig.check knows it."""
    run = loaded("grok1", "--moe-expert-capacity-factor", "1.5")
    assert {item.layout.tp for item in space_of(run, 4)} == {1}


def test_a_batch_is_needed_to_compare() -> None:
    run = load_config(parse(["--model", "grok1-tiny"]))
    with pytest.raises(ConfigError, match="--global-batch-size.*rule.*Give the flag"):
        next(candidates(run.config, run.model, Space(world=4, devices_per_node=4)))


def test_a_space_that_is_too_large_is_refused_at_once() -> None:
    run = load_config(
        parse(
            [
                *("--model", "grok1-314b", "--global-batch-size", "720720", "--model-override"),
                *("num_layers=5040", "num_query_groups=48"),
            ]
        )
    )
    with pytest.raises(ConfigError, match="combinations for 5040 devices; rule: at most 200,000"):
        next(candidates(run.config, run.model, Space(world=5040, devices_per_node=8)))
