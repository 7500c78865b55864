"""The work of a step without building a rank: sums over layers, head and update.

It costs microseconds, so that a search can rank thousands of layouts, and it knows models and
divisions that this repository cannot build. test_closed_form.py holds it to built ranks.
"""

from ml_train.planning.time import layer_messages, layer_work
from ml_train.planning.time.facts import ModelFacts
from ml_train.planning.time.job import Job
from ml_train.planning.time.layer_messages import merged, scaled
from ml_train.planning.time.work import Messages, StepWork, Work, total


def step_work(facts: ModelFacts, job: Job) -> StepWork:
    """The step of the pipeline stage that computes most."""
    stages = sorted({0, min(1, job.pp - 1), job.pp - 1})
    return max(
        (stage_work(facts, job, stage) for stage in stages),
        key=lambda work: work.microbatch.matmul_flops + work.microbatch.attention_flops,
    )


def stage_work(facts: ModelFacts, job: Job, stage: int) -> StepWork:
    """The step of a rank of pipeline stage `stage`."""
    parameters = held_parameters(facts, job, stage)
    return StepWork(
        microbatch=_microbatch(facts, job, stage),
        messages=merged(_messages(facts, job, stage)),
        step_messages=merged(layer_messages.gradient_messages(facts, job, stage, parameters)),
        update=layer_work.update(job, *parameters),
        num_microbatches=job.num_microbatches,
        pp=job.pp,
        vp=job.vp,
        overlap_grad_reduce=job.overlap_grad_reduce,
        overlap_param_gather=job.overlap_param_gather,
        balanced=job.balanced or not facts.num_experts,
        captured=job.captured,
        overlap_experts=job.overlap_experts,
        tokens=job.seq_length * job.micro_batch_size * job.num_microbatches * job.dp / job.world,
        model_flops=_model_flops(facts, job),
    )


def held_parameters(facts: ModelFacts, job: Job, stage: int) -> tuple[float, float]:
    """Parameters of dense layers and of experts that a rank of `stage` holds."""
    layers = job.layers_of_stage[stage]
    dense_share = facts.dense_layers / facts.num_layers
    undivided = sum(matrix.entries for matrix in facts.attention if matrix.split == "none")
    width = dense_share * facts.dense_width + (1 - dense_share) * facts.beside_width
    divided = facts.attention_entries - undivided + facts.mlp_entries(width)
    router = (1 - dense_share) * facts.num_experts * facts.hidden_size
    norms = facts.norms_per_layer * facts.hidden_size
    dense = layers * (divided / job.tp + undivided + router + norms)
    table = facts.vocab_size / job.tp * facts.hidden_size
    first, last = stage == 0, stage == job.pp - 1
    if last:
        dense += facts.hidden_size  # the last norm
    if first:
        dense += table
    if last and not (first and facts.tied):
        dense += table
    expert = facts.mlp_entries(facts.expert_width / job.etp) * facts.num_experts / job.ep
    return dense, layers * (1 - dense_share) * expert


def _microbatch(facts: ModelFacts, job: Job, stage: int) -> Work:
    forward = layer_work.layer_forward(facts, job)
    layer = total(
        [
            forward,
            layer_work.backward_of(forward, job),
            layer_work.recomputed(facts, job, forward),
        ]
    )
    last = stage == job.pp - 1
    parts = [layer.times(job.layers_of_stage[stage] + (facts.further_tokens if last else 0))]
    if last:
        parts.append(layer_work.head(facts, job).times(1 + facts.further_tokens))
    return total(parts)


def _messages(facts: ModelFacts, job: Job, stage: int) -> list[Messages]:
    layer = layer_messages.layer_messages(facts, job)
    messages = scaled(layer, job.layers_of_stage[stage])
    if job.recompute == "full":
        repeated = job.layers_of_stage[stage] * job.recomputed_share
        messages += scaled(layer_messages.forward_messages(facts, job), repeated)
    if stage == 0:
        messages += layer_messages.embedding_messages(facts, job)
    if stage == job.pp - 1:
        messages += layer_messages.head_messages(facts, job)
    return messages + layer_messages.stage_messages(facts, job, stage)


def _model_flops(facts: ModelFacts, job: Job) -> float:
    """FLOPs of a step that the model needs, per device, counted as ml_train.training.flops does.

    Both are held equal by a test. This form also knows published models.
    """
    dense = facts.dense_layers
    layers: float = facts.num_layers * facts.attention_entries
    layers += dense * facts.mlp_entries(facts.dense_width)
    active = facts.topk * facts.expert_width + facts.beside_width
    router = facts.num_experts * facts.hidden_size
    layers += facts.expert_layers * (facts.mlp_entries(active) + router)
    scores = facts.num_attention_heads * (facts.score_channels + facts.value_channels)
    attention = facts.num_layers * scores * facts.mean_context(job.seq_length)
    further = facts.further_tokens * ((layers + attention) / facts.num_layers)
    entries = layers + attention + further
    entries += (1 + facts.further_tokens) * facts.vocab_size * facts.hidden_size
    tokens = job.seq_length * job.micro_batch_size * job.num_microbatches * job.dp / job.world
    return 6.0 * entries * tokens
