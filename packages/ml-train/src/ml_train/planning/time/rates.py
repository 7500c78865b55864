"""The shares of a device's peaks that training reaches: what turns work into seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares are between 0 and 1, of the figures of ml_models/platforms/devices.py."""

    product_share: Mapping[str, float]
    """Of the dense peak by dtype, for large matrix products."""
    attention_share: float
    """Of the bfloat16 peak (the float32 peak in a float32 run), for fused attention."""
    memory_share: float
    """Of the memory's bandwidth."""
    intra_node_share: float
    """Of the links inside a node."""
    inter_node_share: float
    """Of the network."""
    seconds_per_kernel: float
    """Of the host, to start a kernel."""
    seconds_per_message: float
    """Before the first byte of a collective arrives."""
    hidden_share: float = 0.9
    """Of the reduction of gradients and the gathering of parameters, where the run overlaps it."""
    spread: float = 1.5
    """Factor between the expected time and either end of the range."""
    fused: bool = True
    """Memory-bound work and kernels are counted as fused kernels. False: as the operators that
    torch dispatches on this machine, which is what a calibration measures."""
    source: str
    """What the shares come from, for the assumptions of a plan."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Median relative error of step times by what was left out of the fit."""


DEFAULT = Rates(
    product_share={"float32": 0.7, "bfloat16": 0.75, "float16": 0.75, "float8": 0.6},
    attention_share=0.4,
    memory_share=0.8,
    intra_node_share=0.75,
    inter_node_share=0.75,
    seconds_per_kernel=4e-6,
    seconds_per_message=20e-6,
    source="shares that are usual on GPUs",
)


def rates_of(device: str) -> Rates:
    """The rates of a device by its name in devices.toml, or those that are usual."""
    del device
    return DEFAULT
