"""What a rank computes in a layer, in the head and in the update, from facts and sizes alone.

FLOPs are exact: tests hold them to built ranks. Bytes and kernels outside of products count fused
kernels, as the libraries of every accelerator have them: a norm reads and writes its tensor once.
They are estimates, and the rates that are fitted to published runs absorb what they miss.
"""

from collections.abc import Sequence
from dataclasses import replace

from ml_train.planning.time.facts import Matrix, ModelFacts
from ml_train.planning.time.job import Job
from ml_train.planning.time.work import BYTES, Products, Work, total

# Kernels of a forward pass beside the products, as megatron-core starts them with fused kernels.
# The backward pass starts about twice as many.
ATTENTION_KERNELS = 12
MLP_KERNELS = 4
ROUTED_KERNELS = 30
EXPERT_KERNELS = 3
"""Of each expert of a rank: two products and the activation, started one after another."""

CONTEXT_OVERHEAD = 8192
CHANNEL_OVERHEAD = 64
"""A fused attention reaches a share context / (context + the first) * channels / (channels + the
second) of its best rate. The first was chosen among 0, 1500, 4000 and 8192 by the errors of
published runs with 4 to 128 thousand tokens, the second is half of the usual size of a head."""
USUAL_CHANNELS = 128
"""The size of a head whose rate with long contexts is the best rate."""

_BACKWARD = 2.0
_FLASH_BACKWARD = 2.5
"""Five products of the backward pass against two of the forward: scores are computed again."""


def layer_forward(facts: ModelFacts, job: Job) -> Work:
    """The forward pass of a layer: the mean over layers with an MLP and layers with experts."""
    dense = facts.dense_layers / facts.num_layers
    parts = [_attention(facts, job)]
    if dense:
        parts.append(_mlp(facts, job, facts.dense_width).times(dense))
    if dense < 1:
        parts.append(_experts(facts, job).times(1 - dense))
    return total(parts)


def backward_of(forward: Work, job: Job) -> Work:
    """The backward pass of the same layer: a gradient of the input and one of the weights."""
    gradients = [
        half for item in forward.products for half in (_input_gradient(item), _weights(item))
    ]
    return Work(
        products=tuple(gradients),
        attention_flops=forward.attention_flops * _FLASH_BACKWARD,
        attention_cost=forward.attention_cost * _FLASH_BACKWARD,
        memory_bytes=forward.memory_bytes * _BACKWARD + _casts(gradients[::2], job),
        kernels=forward.kernels * _BACKWARD,
        routings=forward.routings * _BACKWARD,
    )


def recomputed(facts: ModelFacts, job: Job, forward: Work) -> Work:
    """What the backward pass of a layer computes once more to save memory."""
    if job.recompute == "full":
        return forward.times(job.recomputed_share)
    if job.recompute == "selective":
        # The activation of the experts. A fused backward pass of attention computes the scores
        # again in any case.
        return Work(memory_bytes=_activation_bytes(facts, job), kernels=1)
    return Work()


def head(facts: ModelFacts, job: Job) -> Work:
    """Logits and loss, forward and backward."""
    columns = facts.vocab_size / job.tp
    forward = _product(job, job.rank_tokens, columns, facts.hidden_size)
    # The logits are read for the maximum, the sum and the target, and written as a gradient.
    logits = job.rank_tokens * columns * (4 * job.activation_bytes + 8)
    passes = Work(products=(forward,), memory_bytes=_casts([forward], job), kernels=10)
    return total([passes, backward_of(passes, job), Work(memory_bytes=logits, kernels=10)])


def update(job: Job, dense_parameters: float, expert_parameters: float) -> Work:
    """The optimizer's step on a rank that holds so many parameters."""
    sharded = job.distributed_optimizer or job.fully_sharded > 1
    dense = dense_parameters / (job.group("dp").size if sharded else 1)
    experts = expert_parameters / (job.edp if sharded else 1)
    # Read: gradient, main parameter and two moments. Written: the last three and the parameter.
    owned = 16 + 12 + job.activation_bytes
    # Of all gradients on the rank: their norm reads them, and the next step writes zeros to them.
    gradients = 8
    memory = owned * (dense + experts) + gradients * (dense_parameters + expert_parameters)
    return Work(memory_bytes=memory, kernels=50)


def _attention(facts: ModelFacts, job: Job) -> Work:
    tokens, part = job.rank_tokens, job.rank_tokens / job.tp
    products = [_divided(job, matrix) for matrix in facts.attention]
    context = facts.mean_context(job.seq_length)
    channels = facts.score_channels + facts.value_channels
    # Norms and residual sums work on the rank's part of the sequence.
    elements = part * facts.hidden_size * (2 * facts.norms_per_layer + 6)
    elements += 2 * tokens * facts.rotated_channels / job.tp
    flops = 2 * tokens * context * channels * facts.num_attention_heads / job.tp
    lost = (1 + CONTEXT_OVERHEAD / context) * (1 + CHANNEL_OVERHEAD / facts.value_channels)
    lost /= 1 + CHANNEL_OVERHEAD / USUAL_CHANNELS
    return Work(
        products=tuple(products),
        attention_flops=flops,
        attention_cost=flops * lost,
        memory_bytes=elements * job.activation_bytes + _casts(products, job),
        kernels=ATTENTION_KERNELS + len(products),
    )


def _mlp(facts: ModelFacts, job: Job, width: float) -> Work:
    tokens = job.rank_tokens
    parts = 2 if facts.gated else 1
    inner = width / job.tp
    products = [
        _product(job, tokens, parts * inner, facts.hidden_size),
        _product(job, tokens, facts.hidden_size, inner),
    ]
    activation = tokens * inner * (parts + 1) * job.activation_bytes
    return Work(
        products=tuple(products),
        memory_bytes=activation + _casts(products, job),
        kernels=MLP_KERNELS + len(products),
    )


def _experts(facts: ModelFacts, job: Job) -> Work:
    part = job.rank_tokens / job.tp
    local = facts.num_experts / job.ep
    rows = routed_rows(facts, job)
    parts = 2 if facts.gated else 1
    inner = facts.expert_width / job.etp
    gate = replace(_product(job, part, facts.num_experts, facts.hidden_size), dtype="float32")
    experts = [
        replace(_product(job, rows / local, parts * inner, facts.hidden_size), count=local),
        replace(_product(job, rows / local, facts.hidden_size, inner), count=local),
    ]
    # Tokens are sorted by expert and put back; the softmax over all experts is float32.
    moved = 4 * facts.hidden_size * rows * job.activation_bytes + 24 * part * facts.num_experts
    routed = Work(
        products=(gate, *experts),
        memory_bytes=moved + _activation_bytes(facts, job) + _casts(experts, job),
        kernels=ROUTED_KERNELS + EXPERT_KERNELS * local,
        routings=1,
    )
    if not facts.beside_width:
        return routed
    return total([routed, _mlp(facts, job, facts.beside_width)])


def routed_rows(facts: ModelFacts, job: Job) -> float:
    """Tokens of a micro batch that all experts of a rank get together, with balanced routing."""
    return job.rank_tokens / job.tp * facts.topk * job.etp


def _activation_bytes(facts: ModelFacts, job: Job) -> float:
    if not facts.num_experts:
        return 0.0
    elements = routed_rows(facts, job) * facts.expert_width / job.etp
    return elements * (3 if facts.gated else 2) * job.activation_bytes


def _divided(job: Job, matrix: Matrix) -> Products:
    columns = matrix.columns / (job.tp if matrix.split == "columns" else 1)
    inner = matrix.inner / (job.tp if matrix.split == "rows" else 1)
    tokens = job.rank_tokens / (job.tp if matrix.split == "none" else 1)
    return _product(job, tokens, columns, inner)


def _product(job: Job, rows: float, columns: float, inner: float) -> Products:
    return Products(
        rows=rows,
        columns=columns,
        inner=inner,
        count=1,
        dtype=job.dtype,
        result_bytes=job.activation_bytes,
    )


def _input_gradient(item: Products) -> Products:
    return replace(item, columns=item.inner, inner=item.columns)


def _weights(item: Products) -> Products:
    # Read and written in float32, as gradients of micro batches are added up.
    return replace(item, rows=item.columns, columns=item.inner, inner=item.rows, result_bytes=8)


def _casts(products: Sequence[Products], job: Job) -> float:
    """Bytes that quantization moves: it reads a factor and writes it in rows and in columns."""
    size = BYTES[job.dtype]
    if size >= job.activation_bytes:
        return 0.0
    per_element = job.activation_bytes + 2 * size
    elements = sum(
        item.count * item.rows * item.inner for item in products if item.dtype == job.dtype
    )
    return elements * per_element
