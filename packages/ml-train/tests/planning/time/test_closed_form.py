"""The closed forms of a step's work against built ranks, and against the counts of training."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from planned_runs import PROCESSES, RUNS

from ml_models.build import pad_vocab_size
from ml_models.parameters import count_parameters
from ml_train.config.flags import parse
from ml_train.config.load import LoadedConfig, load_config
from ml_train.parallel.layout import Layout
from ml_train.planning.legality import layout_of
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.rank_plan import plan_rank
from ml_train.planning.recorded_work import recorded_work
from ml_train.planning.time.closed_form import held_parameters, stage_work, step_work
from ml_train.planning.time.facts import ModelFacts, facts_of
from ml_train.planning.time.job import Job, job_of
from ml_train.planning.time.work import Messages
from ml_train.training.flops import training_flops_per_token

FULL = (
    *("--recompute-granularity", "full", "--recompute-method", "uniform"),
    *("--recompute-num-layers", "1"),
)
CASES = {
    **{
        name: RUNS[name]
        for name in ("tp2-pp2-bf16", "pp2-vpp2-dp2", "tp2-ep2-etp1", "tp2-ep2-distopt-bf16")
    },
    "uneven": [
        *("--model", "grok1-tiny", "--seq-length", "64", "--global-batch-size", "8"),
        *("--model-override", "num_layers=5", "vocab_size=1024", "ffn_hidden_size=96"),
        *("--pipeline-model-parallel-size", "4", "--decoder-first-pipeline-num-layers", "2"),
    ],
    "full-recompute": [*RUNS["tp2-ep2-etp2"], *FULL],
    "selective": [*RUNS["dp4"], "--recompute-granularity", "selective"],
    "dense-and-experts": [
        *("--model", "grok2-tiny", "--seq-length", "64", "--global-batch-size", "8", "--bf16"),
        *("--model-override", "vocab_size=1024", "--tensor-model-parallel-size", "2"),
        *("--moe-router-load-balancing-type", "none"),
    ],
}


def prepare(words: list[str], world: int = PROCESSES) -> tuple[LoadedConfig, Layout]:
    loaded = load_config(parse(words))
    return loaded, layout_of(loaded.config, loaded.model, world)


def sizes_of(loaded: LoadedConfig, layout: Layout) -> tuple[ModelFacts, Job]:
    divisible = loaded.config.model.make_vocab_size_divisible_by
    padded = pad_vocab_size(loaded.model.vocab_size, divisible, layout.tp)
    return facts_of(loaded.model, padded), job_of(loaded.config, loaded.model, layout, 8)


def bytes_of(messages: tuple[Messages, ...]) -> Counter[tuple[str, str, int]]:
    sums: Counter[tuple[str, str, int]] = Counter()
    for item in messages:
        sums[item.parallelism, item.kind, item.group_size] += item.message_bytes
    return sums


@pytest.mark.parametrize("name", CASES)
def test_closed_forms_equal_what_every_stage_computes_and_sends(name: str) -> None:
    loaded, layout = prepare(CASES[name])
    facts, job = sizes_of(loaded, layout)
    platform = MetaPlatform()
    platform.apply()
    run = 1 if layout.vp == 1 else layout.pp
    for stage in sorted({0, layout.pp - 1}):
        rank = stage * layout.world // layout.pp
        with platform.context():
            plan = plan_rank(
                *(loaded.config, loaded.model, layout, rank),
                platform=platform,
                num_microbatches=run,
            )
        closed = stage_work(facts, job, stage)
        computed = plan.work.microbatch
        assert closed.microbatch.matmul_flops == pytest.approx(computed.matmul_flops, rel=1e-9)
        # The CPU's attention computes whole squares of so short a sequence, a fused kernel the
        # causal half.
        causal = (job.seq_length + 1) / (2 * job.seq_length)
        assert closed.microbatch.attention_flops == pytest.approx(
            computed.attention_flops * causal, rel=1e-9
        )
        held = sum(held_parameters(facts, job, stage))
        # Buffers of a distributed optimizer are padded.
        assert held * job.activation_bytes == pytest.approx(plan.held.parameters, rel=5e-4)
        sent: Counter[tuple[str, str]] = Counter()
        for entry in plan.traffic:
            if entry.parallelism != "step":
                sent[entry.parallelism, entry.kind] += entry.message_bytes
        forms: Counter[tuple[str, str]] = Counter()
        for item in (*closed.messages, *closed.step_messages):
            repeats = 1 if item in closed.step_messages else job.num_microbatches
            forms[item.parallelism, item.kind] += repeats * item.message_bytes
        assert forms == pytest.approx(sent, rel=1e-3)


def test_recorded_work_has_the_products_and_messages_of_the_closed_form() -> None:
    loaded, layout = prepare(RUNS["tp2-ep2-distopt-bf16"])
    facts, job = sizes_of(loaded, layout)
    platform = MetaPlatform()
    platform.apply()
    with platform.context():
        plan = plan_rank(
            *(loaded.config, loaded.model, layout, 0), platform=platform, num_microbatches=1
        )
    closed = stage_work(facts, job, 0)
    for fused in (True, False):
        recorded = recorded_work(plan, facts, job, fused=fused)
        assert recorded.microbatch.matmul_flops == closed.microbatch.matmul_flops
        assert (recorded.microbatch.kernels == closed.microbatch.kernels) is fused
        assert sum(bytes_of(recorded.messages).values()) == pytest.approx(
            sum(bytes_of(closed.messages).values()), rel=0.01
        )
        for item in recorded.messages:
            assert item.ranks_in_node == item.group_size, "four ranks of a node of eight"


@pytest.mark.parametrize("model", ["grok1-314b", "grok2-270b", "mixtral-8x7b"])
def test_stages_add_up_to_the_model(model: str) -> None:
    loaded, layout = prepare(["--model", model, "--bf16", "--pipeline-model-parallel-size", "4"], 8)
    facts, job = sizes_of(loaded, layout)
    counts = count_parameters(loaded.model.replace(vocab_size=facts.vocab_size))
    held = sum(sum(held_parameters(facts, job, stage)) for stage in range(4))
    copies = facts.vocab_size * facts.hidden_size if facts.tied else 0
    assert held == counts.total + copies
    needed = training_flops_per_token(
        loaded.model.replace(vocab_size=facts.vocab_size), job.seq_length
    )
    work = step_work(facts, job)
    assert work.model_flops == pytest.approx(needed * work.tokens, rel=1e-9)
    # Scores are computed once more in the backward pass. All else is the model's.
    computed = [stage_work(facts, job, stage).microbatch for stage in range(4)]
    attention = sum(item.attention_flops for item in computed)
    products = sum(item.matmul_flops for item in computed)
    tokens = job.seq_length * job.micro_batch_size
    assert products + attention * 3 / 3.5 == pytest.approx(needed * tokens, rel=1e-9)
