"""How a step is divided: sizes of the batch, of the layout and of the nodes.

Ranks are counted as megatron-core counts them: TP is the fastest, then CP, DP and PP. The experts
of a pipeline stage divide the same ranks as ETP, EP and EDP. Ranks fill the nodes in order.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_train.config.run import RunConfig
    from ml_train.parallel.layout import Layout

Recompute = Literal["none", "selective", "full"]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Ranks that communicate."""

    size: int
    ranks_in_node: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """A step of a run."""

    seq_length: int
    micro_batch_size: int
    num_microbatches: int
    world: int
    devices_per_node: int
    """Devices that the fast links join."""
    tp: int = 1
    pp: int = 1
    vp: int = 1
    ep: int = 1
    etp: int = 1
    cp: int = 1
    fully_sharded: int = 1
    """Ranks that share every dense parameter and gather it before use; 1 for none."""
    layers_of_stage: tuple[float, ...]
    """By pipeline stage."""
    dtype: str = "bfloat16"
    """Of the factors of products, a key of work.BYTES."""
    recompute: Recompute = "none"
    recomputed_share: float = 1.0
    """Of the layers, where they are recomputed in full."""
    distributed_optimizer: bool = False
    overlap_grad_reduce: bool = False
    overlap_param_gather: bool = False
    balanced: bool = False
    """Tokens are dealt to experts evenly by force. The fields here are those of StepWork."""
    captured: bool = False
    overlap_experts: bool = False
    balancing_loss: bool = False
    """The router's loss sums tokens per expert over TP ranks."""

    @property
    def dp(self) -> int:
        """Copies of each dense layer, each with sequences of its own."""
        return self.world // (self.tp * self.cp * self.pp)

    @property
    def edp(self) -> int:
        """Copies of each expert."""
        return self.world // (self.etp * self.ep * self.pp)

    @property
    def activation_bytes(self) -> int:
        """Of an element between products."""
        return 4 if self.dtype == "float32" else 2

    @property
    def rank_tokens(self) -> float:
        """Tokens of a micro batch that the TP ranks of a CP rank share."""
        return self.seq_length * self.micro_batch_size / self.cp

    def group(self, parallelism: str) -> Group:
        """The group of this rank by the name of its parallelism."""
        stage = self.world // self.pp
        size, stride = {
            "tp": (self.tp, 1),
            "cp": (self.cp, self.tp),
            # Gradients of dense layers are summed over CP and DP ranks together.
            "dp": (self.dp * self.cp, self.tp),
            "fsdp": (self.fully_sharded, self.tp),
            "etp": (self.etp, 1),
            "ep": (self.ep, self.etp),
            "tokens": (self.etp * self.ep, 1),
            "edp": (self.edp, self.etp * self.ep),
            "pp": (self.pp, stage),
            "embedding": (min(self.pp, 2), stage * (self.pp - 1)),
        }[parallelism]
        return Group(size=size, ranks_in_node=max(1, min(size, self.devices_per_node // stride)))


def job_of(
    config: "RunConfig", model: "ModelConfig", layout: "Layout", devices_per_node: int
) -> Job:
    """The job of a run of ml-train."""
    training, parallel = config.training, config.parallel
    return Job(
        seq_length=model.seq_length,
        micro_batch_size=training.micro_batch_size,
        num_microbatches=layout.num_microbatches,
        world=layout.world,
        devices_per_node=devices_per_node,
        tp=layout.tp,
        pp=layout.pp,
        vp=layout.vp,
        ep=layout.ep,
        etp=layout.etp,
        layers_of_stage=_layers_of_stages(config, model, layout),
        dtype="bfloat16" if training.bf16 else "float32",
        recompute=training.recompute_granularity or "none",
        recomputed_share=_recomputed_share(config, model, layout),
        distributed_optimizer=config.optimizer.use_distributed_optimizer,
        overlap_grad_reduce=parallel.overlap_grad_reduce,
        overlap_param_gather=parallel.overlap_param_gather,
        balancing_loss=config.model.moe_router_load_balancing_type != "none",
    )


def _layers_of_stages(
    config: "RunConfig", model: "ModelConfig", layout: "Layout"
) -> tuple[float, ...]:
    first = config.parallel.decoder_first_pipeline_num_layers
    last = config.parallel.decoder_last_pipeline_num_layers
    stages = layout.pp - (first is not None) - (last is not None)
    rest = model.num_layers - (first or 0) - (last or 0)
    middle = [rest / stages] * stages if stages else []
    ends = ([float(first)] if first is not None else [], [float(last)] if last is not None else [])
    return (*ends[0], *middle, *ends[1])


def _recomputed_share(config: "RunConfig", model: "ModelConfig", layout: "Layout") -> float:
    training = config.training
    if training.recompute_method != "block" or training.recompute_num_layers is None:
        return 1.0
    # Megatron recomputes so many layers of every virtual stage.
    return min(1.0, training.recompute_num_layers * layout.pp * layout.vp / model.num_layers)
