"""Published runs: their rows, and the work of their steps.

data/published_runs.jsonl holds a row a line: runs of public training frameworks with every input of
a time model, each with the file that states it. data/published_devices.toml holds the devices that
ml_models/platforms/devices.toml lacks, and peaks of dtypes in which ml-train does not train.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from math import ceil

from ml_models.files.tables import read_table
from ml_models.platforms.devices import Device, device
from ml_train.planning.time.closed_form import step_work
from ml_train.planning.time.facts import Matrix, ModelFacts
from ml_train.planning.time.job import Job, Recompute
from ml_train.planning.time.work import StepWork

_DTYPES = (("bf16", "bfloat16"), ("amp", "bfloat16"), ("nvfp4", "float4"), ("", "float8"))
"""Beginning of a row's dtype -> the name of the dtype of products."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the file. Names are Megatron's; None stands for what its source does not say."""

    id: str
    model: str
    device: str
    device_detail: str | None
    num_devices: int
    tp: int
    pp: int
    vp: int
    ep: int
    etp: int | None
    cp: int
    fsdp: int | None
    seq_length: int
    micro_batch_size: int
    global_batch_size: int
    dtype: str
    recompute: str | None
    flags: str | None
    tokens_per_second: float | None
    """Of a device."""
    model_tflops: float | None
    """Of a device, as its source counts FLOPs."""
    step_seconds: float | None
    gflop_per_token: float
    """As the collection counts it, forward and backward."""
    version: str | None
    source: str
    num_layers: int
    hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    kv_channels: int
    ffn_hidden_size: int | None
    moe_ffn_hidden_size: int | None
    num_experts: int | None
    topk: int | None
    moe_shared_expert_intermediate_size: int | None
    first_k_dense_layers: int | None
    vocab_size: int
    gated_mlp: bool
    multi_latent_attention: bool = False
    q_lora_rank: int | None = None
    kv_lora_rank: int = 0
    qk_head_dim: int = 0
    """Of a head, without the part that carries positions."""
    qk_pos_emb_head_dim: int = 0
    v_head_dim: int = 0
    mtp_num_layers: int | None = None
    sliding_window: int | None = None
    model_source: str | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """A row, as a time model reads it."""

    id: str
    model: str
    device_name: str
    """As the collection groups devices."""
    device: Device
    dtype: str
    is_moe: bool
    source: str
    seconds: float
    """Of a step, as published."""
    work: StepWork


@functools.cache
def published_rows() -> tuple[Row, ...]:
    """All lines, in their order."""
    text = (files(__package__) / "data" / "published_runs.jsonl").read_text(encoding="utf-8")
    return tuple(Row(**json.loads(line)) for line in text.splitlines())


@functools.cache
def published_runs() -> tuple[PublishedRun, ...]:
    """All rows, in the order of the file."""
    return tuple(_run(row) for row in published_rows())


@functools.cache
def published_devices() -> Mapping[str, Device]:
    """The devices of the rows, by the collection's names."""
    rows = read_table(__package__, "data/published_devices.toml")["devices"]
    devices = {}
    for name, row in rows.items():
        base = row.pop("base", None)
        if base is None:
            devices[name] = Device(name=name.lower(), title=name, names=(), **row)
        else:
            tflops = {**device(base).tflops, **row.pop("tflops", {})}
            devices[name] = replace(device(base), tflops=tflops, **row)
    return devices


def _run(row: Row) -> PublishedRun:
    target = published_devices()[row.device]
    work = _exchanged(row, step_work(model_facts(row), job(row, target)))
    seconds = row.step_seconds
    if seconds is None:
        tflops = row.model_tflops or 0.0
        seconds = work.tokens / (row.tokens_per_second or tflops * 1e3 / row.gflop_per_token)
    return PublishedRun(
        id=row.id,
        model=row.model,
        device_name=row.device,
        device=target,
        dtype=dtype_of(row),
        is_moe=bool(row.num_experts),
        source=row.source,
        seconds=seconds,
        work=work,
    )


def dtype_of(row: Row) -> str:
    """Of the products of a row."""
    return next(name for start, name in _DTYPES if row.dtype.startswith(start))


def job(row: Row, target: Device) -> Job:
    """How a row's step is divided. Gradients are reduced beside computation, as in its recipe."""
    sequences = row.global_batch_size * row.tp * row.pp * row.cp / row.num_devices
    recompute, share = _recomputation(row)
    flags = row.flags or ""
    return Job(
        seq_length=row.seq_length,
        micro_batch_size=row.micro_batch_size,
        num_microbatches=max(1, int(sequences / row.micro_batch_size)),
        world=row.num_devices,
        devices_per_node=target.devices_per_node,
        tp=row.tp,
        pp=row.pp,
        vp=row.vp,
        ep=row.ep,
        etp=row.etp or 1,
        cp=row.cp,
        fully_sharded=row.fsdp or 1,
        layers_of_stage=_layers(row),
        dtype=dtype_of(row),
        recompute=recompute,
        recomputed_share=share,
        distributed_optimizer=True,
        overlap_grad_reduce=True,
        overlap_param_gather=True,
        # Nearly all rows without a word on routing force it to be balanced (PUBLISHED_RUNS.md).
        balanced="natural routing" not in flags,
        captured="CUDA graph" in flags,
        overlap_experts="a2a" in flags and "overlap" in flags and "a2a overlap off" not in flags,
    )


def _exchanged(row: Row, work: StepWork) -> StepWork:
    """The work with tokens sent to each node once, as DeepEP and HybridEP exchange them.

    Megatron-Bridge's recipes choose one of them on B200 and later devices.
    """
    flags = row.flags or ""
    once = "DeepEP" in flags or "HybridEP" in flags
    once = once or ("Megatron-Bridge" in row.source and row.device != "H100 SXM")
    exchange = next((item for item in work.messages if item.parallelism == "ep"), None)
    if not once or row.topk is None or exchange is None or not exchange.leaves_node:
        return work
    nodes = exchange.group_size / exchange.ranks_in_node
    # Of topk independent choices among the nodes, so many differ.
    share = nodes * (1 - (1 - 1 / nodes) ** row.topk) / row.topk
    messages = tuple(
        replace(item, message_bytes=item.message_bytes * share)
        if item.kind == "all-to-all"
        else item
        for item in work.messages
    )
    return replace(work, messages=messages)


def _recomputation(row: Row) -> tuple[Recompute, float]:
    text = row.recompute or ""
    if text.startswith(("full", "method block", "activation checkpointing on")):
        return "full", 1.0
    if text.startswith("selective") and row.id.startswith("titan-"):
        # torchtitan's selective policy keeps every second product and computes the others again.
        return "full", 0.5
    return ("selective", 1.0) if text.startswith("selective") else ("none", 1.0)


def _layers(row: Row) -> tuple[float, ...]:
    """Layers by stage. Where they do not divide, embedding and head count as layers."""
    layers, pp = row.num_layers, row.pp
    if layers % pp == 0:
        return (layers / pp,) * pp
    slots = ceil((layers + 2 + (row.mtp_num_layers or 0)) / pp)
    ends = (layers - slots * (pp - 2)) / 2
    return (ends, *(slots,) * (pp - 2), ends)


def model_facts(row: Row) -> ModelFacts:
    """The sizes of a row's model."""
    experts = row.num_experts or 0
    dense = (row.first_k_dense_layers or 0) if experts else row.num_layers
    latent = row.multi_latent_attention
    rotated = row.qk_pos_emb_head_dim
    scores = row.qk_head_dim + rotated if latent else row.kv_channels
    values = row.v_head_dim if latent else row.kv_channels
    groups = row.num_attention_heads if latent else row.num_query_groups
    return ModelFacts(
        hidden_size=row.hidden_size,
        num_layers=row.num_layers,
        attention=tuple(_latent_attention(row) if latent else _attention(row)),
        num_attention_heads=row.num_attention_heads,
        score_channels=scores,
        value_channels=values,
        rotated_channels=(row.num_attention_heads + groups) * scores,
        key_value_channels=groups * (scores + values),
        window=row.sliding_window,
        windowed_layers=row.num_layers // 2 if row.sliding_window else 0,
        gated=row.gated_mlp,
        dense_layers=dense,
        dense_width=(row.ffn_hidden_size or 0) if dense else 0,
        num_experts=experts,
        topk=(row.topk or 0) if experts else 0,
        expert_width=(row.moe_ffn_hidden_size or 0) if experts else 0,
        beside_width=(row.moe_shared_expert_intermediate_size or 0) if experts else 0,
        vocab_size=row.vocab_size,
        further_tokens=row.mtp_num_layers or 0,
    )


def _attention(row: Row) -> Sequence[Matrix]:
    queries = row.num_attention_heads * row.kv_channels
    keys = row.num_query_groups * row.kv_channels
    return (
        Matrix(inner=row.hidden_size, columns=queries + 2 * keys, split="columns"),
        Matrix(inner=queries, columns=row.hidden_size, split="rows"),
    )


def _latent_attention(row: Row) -> Sequence[Matrix]:
    """DeepSeek-V2's attention (arXiv 2405.04434, section 2.1), with a latent of keys and values."""
    hidden, heads, rank = row.hidden_size, row.num_attention_heads, row.q_lora_rank
    scores = heads * (row.qk_head_dim + row.qk_pos_emb_head_dim)
    values = heads * row.v_head_dim
    queries = [Matrix(inner=hidden, columns=scores, split="columns")]
    if rank is not None:
        queries = [
            Matrix(inner=hidden, columns=rank, split="none"),
            Matrix(inner=rank, columns=scores, split="columns"),
        ]
    latent = row.kv_lora_rank
    return (
        *queries,
        Matrix(inner=hidden, columns=latent + row.qk_pos_emb_head_dim, split="none"),
        Matrix(inner=latent, columns=heads * row.qk_head_dim + values, split="columns"),
        Matrix(inner=values, columns=hidden, split="rows"),
    )
