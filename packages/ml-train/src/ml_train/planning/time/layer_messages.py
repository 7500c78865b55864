"""What a rank sends in a layer, in the head, between stages and once a step.

The messages are those of megatron-core with sequence parallelism and of ml_models' experts. Tests
hold their bytes to those that built ranks ask for. Context parallelism and full sharding, which
ml-train does not have, are counted as published frameworks do them.
"""

from collections.abc import Sequence
from dataclasses import replace

from ml_train.planning.time.facts import ModelFacts
from ml_train.planning.time.job import Job
from ml_train.planning.time.layer_work import routed_rows
from ml_train.planning.time.work import Messages

_GATE_BYTES = 4
_COUNT_BYTES = 8
_SUM_BYTES = 4
"""Combined outputs of the parts of an expert, losses and gradients are summed in float32."""


def layer_messages(facts: ModelFacts, job: Job) -> list[Messages]:
    """Of a micro batch in a layer, forward and backward; the mean over kinds of layers."""
    backward = [
        *_blocks(facts, job, gathered_again=1),
        *_routed(facts, job, _ROUTED_BACKWARD),
        *_of(job, ("cp", "all-gather", 1, _context(facts, job))),
        *_of(job, ("cp", "reduce-scatter", 1, _context(facts, job))),
        *_of(job, ("fsdp", "all-gather", 1, _shard(facts, job))),
        *_of(job, ("fsdp", "reduce-scatter", 1, _shard(facts, job))),
    ]
    if job.balancing_loss:
        # Computed where gradients are recorded, so that recomputation does not send it again.
        loss = _of(job, ("tp", "all-reduce", 1, facts.num_experts * _SUM_BYTES))
        backward += scaled(loss, facts.expert_layers / facts.num_layers)
    return forward_messages(facts, job) + backward


def forward_messages(facts: ModelFacts, job: Job) -> list[Messages]:
    """Of a micro batch in the forward pass of a layer, which recomputation sends once more."""
    return [
        *_blocks(facts, job, gathered_again=0),
        *_counts(facts, job),
        *_routed(facts, job, _ROUTED_FORWARD),
        *_of(job, ("cp", "all-gather", 1, _context(facts, job))),
        *_of(job, ("fsdp", "all-gather", 1, _shard(facts, job))),
    ]


def embedding_messages(facts: ModelFacts, job: Job) -> list[Messages]:
    """Of a micro batch in the embedding, whose parts are summed and scattered."""
    hidden = job.rank_tokens * facts.hidden_size * job.activation_bytes
    return _of(
        job,
        ("tp", "reduce-scatter", 1, hidden),
        ("tp", "all-gather", 1, hidden),
    )


def head_messages(facts: ModelFacts, job: Job) -> list[Messages]:
    """Of a micro batch in the output projection and the loss."""
    hidden = job.rank_tokens * facts.hidden_size * job.activation_bytes
    return _of(
        job,
        ("tp", "all-gather", 2, hidden),
        ("tp", "reduce-scatter", 1, hidden),
        # Largest logit, logit of the target, sum of exponentials.
        ("tp", "all-reduce", 3, job.rank_tokens * _SUM_BYTES),
    )


def stage_messages(facts: ModelFacts, job: Job, stage: int) -> list[Messages]:
    """Of a micro batch between pipeline stages, for all virtual stages of `stage`."""
    if job.pp == 1:
        return []
    # A chunk sends its output on and the gradient of its input back. The embedding and the loss
    # have one neighbour only.
    sent = 2 * job.vp - (stage in (0, job.pp - 1))
    hidden = job.rank_tokens / job.tp * facts.hidden_size * job.activation_bytes
    return _of(job, ("pp", "send", sent, hidden), ("pp", "receive", sent, hidden))


def gradient_messages(
    facts: ModelFacts, job: Job, stage: int, parameters: tuple[float, float]
) -> list[Messages]:
    """Once a step, for a rank that holds `parameters`, of dense layers and of experts."""
    messages: list[Messages] = []
    both = all(parameters)
    for parallelism, num_parameters in zip(("dp", "edp"), parameters, strict=True):
        if not num_parameters or job.fully_sharded > 1:
            continue
        if not job.distributed_optimizer:
            messages += _of(job, (parallelism, "all-reduce", 1, num_parameters * _SUM_BYTES))
            continue
        # Dense layers and experts have an optimizer each, and either gathers all parameters.
        gathered = 2 if both else 1
        messages += _of(
            job,
            (parallelism, "reduce-scatter", 1, num_parameters * _SUM_BYTES),
            (parallelism, "all-gather", gathered, num_parameters * job.activation_bytes),
        )
    last = stage == job.pp - 1
    whole = job.layers_of_stage[stage] * _undivided(facts) + (facts.hidden_size if last else 0)
    messages += _of(job, ("tp", "all-reduce", 1, whole * _SUM_BYTES))
    if last:
        messages += _of(job, ("dp", "all-reduce", 1, _SUM_BYTES))  # the number of targets
    if facts.tied and job.pp > 1 and stage in (0, job.pp - 1):
        table = facts.vocab_size / job.tp * facts.hidden_size
        messages += _of(job, ("embedding", "all-reduce", 1, table * _SUM_BYTES))
    return messages


def scaled(messages: Sequence[Messages], factor: float) -> list[Messages]:
    """`factor` times these messages."""
    return [
        replace(item, calls=item.calls * factor, message_bytes=item.message_bytes * factor)
        for item in messages
    ]


def merged(messages: Sequence[Messages]) -> tuple[Messages, ...]:
    """A sum per kind and group."""
    sums: dict[tuple[str, str, int], Messages] = {}
    for item in messages:
        key = (item.parallelism, item.kind, item.group_size)
        before = sums.get(key)
        sums[key] = (
            item
            if before is None
            else replace(
                item,
                calls=before.calls + item.calls,
                message_bytes=before.message_bytes + item.message_bytes,
            )
        )
    return tuple(sums.values())


def _undivided(facts: ModelFacts) -> float:
    """Parameters of a layer that every TP rank holds and whose gradients TP ranks sum."""
    router = facts.num_experts * facts.hidden_size * facts.expert_layers / facts.num_layers
    return facts.norms_per_layer * facts.hidden_size + router


def _blocks(facts: ModelFacts, job: Job, *, gathered_again: int) -> list[Messages]:
    """Of a pass: column-parallel products gather their input, row-parallel ones scatter a sum.

    In the backward pass the gradient of the output is gathered and that of the input scattered.
    Attention gathers its input again, for the gradient of its weights; ml_models' MLPs keep theirs.
    """
    experts = facts.expert_layers / facts.num_layers
    blocks = 1 + (1 - experts) + (experts if facts.beside_width else 0)
    hidden = job.rank_tokens * facts.hidden_size * job.activation_bytes
    return _of(
        job,
        ("tp", "all-gather", blocks + gathered_again, hidden),
        ("tp", "reduce-scatter", blocks, hidden),
    )


# Of the exchanges between experts: group, kind, calls, and bytes of an element of the outputs; None
# for that of activations. Combined outputs are summed in float32.
_ROUTED_FORWARD: tuple[tuple[str, str, int, int | None], ...] = (
    ("ep", "all-to-all", 2, None),
    ("etp", "all-gather", 1, None),
    ("etp", "reduce-scatter", 1, _SUM_BYTES),
)
_ROUTED_BACKWARD: tuple[tuple[str, str, int, int | None], ...] = (
    ("ep", "all-to-all", 2, None),
    ("etp", "all-gather", 1, _SUM_BYTES),
    ("etp", "reduce-scatter", 1, None),
)


def _routed(
    facts: ModelFacts, job: Job, exchanges: Sequence[tuple[str, str, int, int | None]]
) -> list[Messages]:
    """Dispatch and combine of a pass. The gates, or their gradients, go along with the dispatch."""
    rows = routed_rows(facts, job)
    messages = []
    for parallelism, kind, calls, element in exchanges:
        size = element or job.activation_bytes
        # The ranks that share experts gather what was dealt to the first of them.
        dealt = rows / job.etp if parallelism == "ep" else rows
        messages += _of(job, (parallelism, kind, calls, dealt * facts.hidden_size * size))
        if parallelism == "ep" or element is None:
            messages += _of(job, (parallelism, kind, 1, dealt * _GATE_BYTES))
    return scaled(messages, facts.expert_layers / facts.num_layers)


def _counts(facts: ModelFacts, job: Job) -> list[Messages]:
    """Tokens per expert, which the ranks that exchange tokens tell each other."""
    counts = facts.num_experts * _COUNT_BYTES * job.group("tokens").size
    messages = _of(job, ("tokens", "all-gather", 1, counts))
    return scaled(messages, facts.expert_layers / facts.num_layers)


def _context(facts: ModelFacts, job: Job) -> float:
    """Bytes of the keys and values of a whole sequence that CP ranks gather."""
    return job.rank_tokens * job.cp * facts.key_value_channels / job.tp * job.activation_bytes


def _shard(facts: ModelFacts, job: Job) -> float:
    """Bytes of the dense parameters of a layer."""
    dense = facts.dense_layers / facts.num_layers
    width = dense * facts.dense_width + (1 - dense) * facts.beside_width
    entries = (facts.attention_entries + facts.mlp_entries(width)) / job.tp
    return entries * job.activation_bytes


def _of(job: Job, *rows: tuple[str, str, float, float]) -> list[Messages]:
    """Messages of (group, kind, calls, bytes of a call), without groups of a single rank."""
    messages = []
    for parallelism, kind, calls, message_bytes in rows:
        group = job.group(parallelism)
        if group.size == 1 or not calls or not message_bytes:
            continue
        messages.append(
            Messages(
                # The traffic of a plan counts the ranks that share tokens as etp.
                parallelism="etp" if parallelism == "tokens" else parallelism,
                kind=kind,
                group_size=group.size,
                ranks_in_node=group.ranks_in_node,
                calls=calls,
                message_bytes=calls * message_bytes,
            )
        )
    return messages
