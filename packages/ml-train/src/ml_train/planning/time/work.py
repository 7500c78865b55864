"""What a rank computes and sends in a training step, in units that no device decides.

Sums of work and of messages keep what a time model needs: the sizes of matrix products, whose rate
depends on them, and the positions of the ranks of a group, which decide the link.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ml_train.planning.time.rings import sent_bytes

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8": 1, "float4": 0.5}
"""Of an element, by the name of the dtype."""


@dataclass(frozen=True, kw_only=True)
class Products:
    """Matrix products [rows, inner] @ [inner, columns] of a single shape.

    Sizes are of a single product. They need not be whole: with balanced routing an expert gets a
    mean number of tokens.
    """

    rows: float
    columns: float
    inner: float
    count: float
    dtype: str = "bfloat16"
    """Of the factors, a key of BYTES."""
    result_bytes: float = 2
    """Moved per element of the result: 8 where it is added to a float32 gradient."""

    def counted(self, count: float) -> "Products":
        """`count` products of this shape. dataclasses.replace takes ten times as long, and a
        search makes millions."""
        return Products(
            rows=self.rows,
            columns=self.columns,
            inner=self.inner,
            count=count,
            dtype=self.dtype,
            result_bytes=self.result_bytes,
        )

    @property
    def flops(self) -> float:
        """Of all of them; a multiplication and an addition for each term."""
        return 2.0 * self.count * self.rows * self.columns * self.inner

    @property
    def moved_bytes(self) -> float:
        """Of a single product: both factors are read once."""
        factors = (self.rows + self.columns) * self.inner * BYTES[self.dtype]
        return factors + self.rows * self.columns * self.result_bytes


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a device computes."""

    products: tuple[Products, ...] = ()
    attention_flops: float = 0.0
    """Of scores and their products with the values, as a fused kernel computes them: the causal
    half, with the scores once more in the backward pass."""
    attention_cost: float = 0.0
    """The same FLOPs, weighted with what short contexts and small heads lose (layer_work.py)."""
    memory_bytes: float = 0.0
    """Read and written outside of products and attention."""
    kernels: float = 0.0
    """Kernels that the host starts."""
    routings: float = 0.0
    """Passes of layers with experts, of which the host waits to hear who gets how many tokens."""

    @property
    def matmul_flops(self) -> float:
        """Of all products, without attention."""
        return sum(item.flops for item in self.products)

    def times(self, factor: float) -> "Work":
        """`factor` times this work."""
        return Work(
            products=tuple(item.counted(item.count * factor) for item in self.products),
            attention_flops=self.attention_flops * factor,
            attention_cost=self.attention_cost * factor,
            memory_bytes=self.memory_bytes * factor,
            kernels=self.kernels * factor,
            routings=self.routings * factor,
        )


def total(parts: Iterable[Work]) -> Work:
    """The sum of `parts`. Products of equal shape are counted together."""
    parts = tuple(parts)
    counts: dict[Products, float] = {}
    for item in (item for part in parts for item in part.products):
        shape = item.counted(1)
        counts[shape] = counts.get(shape, 0) + item.count
    return Work(
        products=tuple(shape.counted(count) for shape, count in counts.items()),
        attention_flops=sum(part.attention_flops for part in parts),
        attention_cost=sum(part.attention_cost for part in parts),
        memory_bytes=sum(part.memory_bytes for part in parts),
        kernels=sum(part.kernels for part in parts),
        routings=sum(part.routings for part in parts),
    )


@dataclass(frozen=True, kw_only=True)
class Messages:
    """Collectives of a kind over a group of ranks."""

    parallelism: str
    """As in planning/traffic.py: tp, pp, ep, etp, dp, edp, embedding; also cp and fsdp."""
    kind: str
    """all-reduce, all-gather, reduce-scatter, all-to-all, send, receive."""
    group_size: int
    ranks_in_node: int
    """Ranks of the group in the node of this rank, itself included."""
    calls: float
    message_bytes: float
    """Whole messages over the group, of all calls together."""

    @property
    def leaves_node(self) -> bool:
        """Whether a part of it goes over the network."""
        return self.ranks_in_node < self.group_size

    @property
    def sent_bytes(self) -> float:
        """By this rank, in a ring algorithm."""
        return sent_bytes(self.kind, self.message_bytes, self.group_size)


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """A training step of the rank that has most to do."""

    microbatch: Work
    """Forward and backward pass of a micro batch, on all virtual stages of the rank."""
    messages: tuple[Messages, ...]
    """Of a micro batch."""
    step_messages: tuple[Messages, ...]
    """Once a step: gradients and parameters."""
    update: Work
    """The optimizer's step."""
    num_microbatches: int
    pp: int
    vp: int
    overlap_grad_reduce: bool = False
    """The reduction of gradients runs beside the backward pass of the last micro batch."""
    overlap_param_gather: bool = False
    """Parameters are gathered beside the forward pass of the first micro batch."""
    balanced: bool = True
    """Every expert gets the same number of tokens. False: the router's choices are free."""
    captured: bool = False
    """The host replays captured graphs, as CUDA graphs are, in place of starting every kernel."""
    overlap_experts: bool = False
    """The exchange between experts runs beside the computation of another micro batch."""
    tokens: float
    """Tokens of the step, per device of the job."""
    model_flops: float
    """FLOPs of the step that the model needs, per device (ml_train/training/flops.py)."""
