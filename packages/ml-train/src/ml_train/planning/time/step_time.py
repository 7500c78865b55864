"""Seconds of a training step: its work and its messages at the rates that a device reaches.

A product takes as long as its FLOPs at a share of the dense peak, or as its bytes if that is
longer. The share falls for short sums by the rule of ml_models/costs/tiles.py. Products, attention
and memory-bound kernels wait for each other. The host starts them ahead of the device, so that its
time counts only as far as it is longer. Messages inside layers are added. A pipeline adds the time
of (PP - 1) / VP micro batches, in which a stage waits (Narayanan et al., arXiv 2104.04473, section
2.2).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_models.costs.tiles import start_share
from ml_train.errors import ConfigError
from ml_train.planning.time.rates import Rates
from ml_train.planning.time.work import Messages, Products, StepWork, Work

if TYPE_CHECKING:
    from ml_models.platforms.devices import Device

IN_LAYERS = ("tp", "etp", "ep", "cp", "fsdp")
"""Parallelism whose messages a layer waits for."""

PARTS = (
    *("products", "attention", "memory", "host"),
    *IN_LAYERS,
    *("pp", "imbalance", "bubble", "dp", "update"),
)
"""What the seconds of a step go to, in the order of a report."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of a step."""

    low: float
    expected: float
    high: float
    parts: Mapping[str, float]
    """Of `expected`, by a name of PARTS; parts of 0 are left out."""
    tokens: float
    """Of the step, per device."""
    model_flops: float
    """Of the step, per device."""
    peak_flops: float
    """Of the device, in the dtype of the products."""
    assumptions: tuple[str, ...]

    @property
    def tokens_per_second(self) -> float:
        """Per device."""
        return self.tokens / self.expected

    @property
    def model_flops_utilisation(self) -> float:
        """Share of the peak that the model's own FLOPs take."""
        return self.model_flops / self.expected / self.peak_flops

    @property
    def bubble_share(self) -> float:
        """Share of the step in which a pipeline stage waits."""
        return self.parts.get("bubble", 0.0) / self.expected


def step_time(work: StepWork, device: "Device", rates: Rates) -> StepTime:
    """How long the step takes on `device`. Raises ConfigError where it lacks a needed figure."""
    microbatch = _microbatch(work, device, rates)
    parts = {name: seconds * work.num_microbatches for name, seconds in microbatch.items()}
    taken = sum(microbatch.values())
    parts["bubble"] = (work.pp - 1) / work.vp * taken
    parts["dp"] = _exposed(work, taken, device, rates)
    update = work_seconds(work.update, device, rates)
    parts["update"] = max(sum(update.values()) - update["host"], update["host"])
    expected = sum(parts.values())
    return StepTime(
        low=expected / rates.spread,
        expected=expected,
        high=expected * rates.spread,
        parts={name: parts[name] for name in PARTS if parts.get(name)},
        tokens=work.tokens,
        model_flops=work.model_flops,
        peak_flops=_peak(device, _dtype(work.microbatch)),
        assumptions=_assumptions(work, rates),
    )


def _microbatch(work: StepWork, device: "Device", rates: Rates) -> dict[str, float]:
    parts = work_seconds(work.microbatch, device, rates)
    host = parts["host"] * (rates.captured_share if work.captured else 1)
    computing = sum(parts.values()) - parts["host"]
    parts["host"] = max(0.0, host - rates.host_ahead * computing)
    parts.update(message_seconds(work.messages, device, rates))
    if work.overlap_experts and "ep" in parts:
        parts["ep"] *= rates.overlapped_share
    if "fsdp" in parts:
        # Sharded parameters are gathered for the next layer while a layer computes.
        parts["fsdp"] *= rates.exposed_share
    parts["imbalance"] = 0.0 if work.balanced else (rates.imbalance - 1) * sum(parts.values())
    return parts


def work_seconds(work: Work, device: "Device", rates: Rates) -> dict[str, float]:
    """Of what a device computes, by part."""
    bandwidth = device.memory_bytes_per_second * rates.memory_share
    shares = rates.product_share
    peaks = {
        dtype: _peak(device, dtype) * shares.get(dtype, shares["bfloat16"])
        for dtype in {item.dtype for item in work.products}
    }
    attention = 0.0
    if work.attention_cost:
        dtype = "float32" if _dtype(work) == "float32" else "bfloat16"
        rate = _peak(device, dtype) * rates.attention_share
        attention = work.attention_cost / rate
    return {
        "products": sum(_seconds(item, peaks[item.dtype], bandwidth) for item in work.products),
        "attention": attention,
        "memory": work.memory_bytes / bandwidth,
        "host": work.kernels * rates.seconds_per_kernel + work.routings * rates.seconds_per_routing,
    }


def message_seconds(
    messages: Iterable[Messages], device: "Device", rates: Rates
) -> dict[str, float]:
    """Of messages, by their parallelism."""
    seconds: dict[str, float] = {}
    for item in messages:
        taken = _message_seconds(item, device, rates)
        seconds[item.parallelism] = seconds.get(item.parallelism, 0.0) + taken
    return seconds


def _seconds(item: Products, rate: float, bandwidth: float) -> float:
    computing = 2 * item.rows * item.columns * item.inner / (rate * start_share(item.inner))
    return item.count * max(computing, item.moved_bytes / bandwidth)


def _message_seconds(item: Messages, device: "Device", rates: Rates) -> float:
    """Links inside and between nodes work at the same time: the slower decides.

    A ring over several nodes has a connection for every device of a node that is in the group. In
    an all-to-all every rank sends as much to each other rank.
    """
    if item.kind == "receive":
        return 0.0  # Links work in both directions: the time is that of what is sent meanwhile.
    size, local = item.group_size, item.ranks_in_node
    nodes = size / local
    if item.kind == "all-to-all":
        inside = item.message_bytes * (local - 1) / size
        outside = item.message_bytes * (size - local) / size
    elif item.kind == "send":
        inside, outside = (0.0, item.message_bytes) if item.leaves_node else (item.message_bytes, 0)
    else:
        passes = 2 if item.kind == "all-reduce" else 1
        inside = passes * item.message_bytes * (local - 1) / local
        outside = passes * item.message_bytes * (nodes - 1) / nodes / local
    seconds = inside / (device.intra_node_bytes_per_second * rates.intra_node_share)
    if outside:
        # A device file without a network figure is for jobs of a single node.
        network = device.inter_node_bytes_per_second or device.intra_node_bytes_per_second
        seconds = max(seconds, outside / (network * rates.inter_node_share))
    return seconds + item.calls * rates.seconds_per_message


def _exposed(work: StepWork, taken: float, device: "Device", rates: Rates) -> float:
    """Seconds of a step's own messages that nothing hides.

    Overlap hides gradients behind the backward pass of the last micro batch, two thirds of its
    time, and parameters behind the forward pass of the first.
    """
    exposed = 0.0
    for item in work.step_messages:
        seconds = _message_seconds(item, device, rates)
        hideable = 0.0
        if work.overlap_grad_reduce and item.kind in ("reduce-scatter", "all-reduce"):
            hideable = taken * 2 / 3
        elif work.overlap_param_gather and item.kind == "all-gather":
            hideable = taken / 3
        exposed += seconds - min((1 - rates.exposed_share) * seconds, hideable)
    return exposed


def _dtype(work: Work) -> str:
    """Of the products that take most FLOPs."""
    flops: dict[str, float] = {}
    for item in work.products:
        flops[item.dtype] = flops.get(item.dtype, 0.0) + item.flops
    return max(flops, key=lambda name: flops[name], default="bfloat16")


def _peak(device: "Device", dtype: str) -> float:
    peak = device.peak_tflops(dtype)
    if peak is None and dtype == "float32" and device.peak_tflops("bfloat16"):
        # Devices that publish no float32 figure have no units for its products: a sixteenth of the
        # bfloat16 rate is what those that publish it reach.
        peak = (device.peak_tflops("bfloat16") or 0) / 16
    elif peak is None and dtype in ("bfloat16", "float16"):
        # A device without units for either computes them as it computes float32.
        peak = device.peak_tflops("float16") or device.peak_tflops("float32")
    if peak is None:
        known = ", ".join(sorted(device.tflops))
        raise ConfigError(
            f"{device.name} has no dense peak for {dtype}; known: {known}. Plan a run in one of "
            f"them, or give a device file whose tflops name {dtype}."
        )
    return peak * 1e12


def _assumptions(work: StepWork, rates: Rates) -> tuple[str, ...]:
    hidden = work.overlap_grad_reduce or work.overlap_param_gather
    routing = (
        "Every expert gets the same number of tokens."
        if work.balanced
        else f"Free routing makes a micro batch longer by {rates.imbalance - 1:.0%}."
    )
    return (
        f"Rates: {rates.source}.",
        "The rank that computes most decides the time: every stage of the pipeline waits for it.",
        routing,
        "Messages inside layers are not hidden behind computation.",
        f"Overlap leaves {rates.exposed_share:.0%} of the messages of gradients and parameters."
        if hidden
        else "Gradients are reduced when the backward passes are over: no overlap is asked for.",
        "Reading data, logging and checkpoints take no time of a step.",
        f"The range is a factor of {rates.spread:.2f} to either side.",
    )
