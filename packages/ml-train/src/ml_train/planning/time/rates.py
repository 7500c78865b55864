"""The shares of a device's peaks that training reaches: what turns work into seconds.

data/rates.toml has those that fit.py fits to published runs. A calibration measures its own.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ml_models.files.tables import read_table


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares are of the figures of ml_models/platforms/devices.py.

    A fitted share of a link may exceed 1: a part of the messages is hidden behind computation, and
    published runs do not say how much.
    """

    product_share: Mapping[str, float]
    """Of the dense peak by dtype, for large matrix products."""
    attention_share: float
    """Of the bfloat16 peak (the float32 peak in a float32 run), for attention with long contexts
    and large heads."""
    memory_share: float
    """Of the memory's bandwidth."""
    intra_node_share: float
    """Of the links inside a node."""
    inter_node_share: float
    """Of the network."""
    seconds_per_kernel: float
    """Of the host, to start a kernel."""
    seconds_per_routing: float = 0.0
    """Of the host, in a pass of a layer with experts, beside the kernels that it starts."""
    host_ahead: float = 1.0
    """Share of the device's time in which the host goes on to start kernels: 1 for a host that
    never waits, 0 for a host that waits for every kernel."""
    seconds_per_message: float = 0.0
    """Before the first byte of a collective arrives."""
    exposed_share: float = 0.3
    """Of the reduction of gradients and the gathering of parameters, where they are overlapped."""
    captured_share: float = 0.5
    """Of the host's time that is left where graphs are captured."""
    overlapped_share: float = 0.5
    """Of the exchange between experts that is left where it is overlapped."""
    imbalance: float = 1.2
    """Factor of the time of a micro batch where the routing is not balanced by force."""
    spread: float = 1.5
    """Factor between the expected time and either end of the range."""
    fused: bool = True
    """Memory-bound work and kernels are counted as fused kernels. False: as the operators that
    torch dispatches on this machine, which is what a calibration measures."""
    source: str
    """What the shares come from, for the assumptions of a plan."""

    def slower(self, factor: float) -> "Rates":
        """The rates of a device that computes slower by `factor`, relative to its peaks."""
        products = {name: share / factor for name, share in self.product_share.items()}
        return replace(
            self,
            product_share=products,
            attention_share=self.attention_share / factor,
            memory_share=self.memory_share / factor,
        )


@functools.cache
def fitted_rates() -> Rates:
    """Those of a device that no published run is of."""
    return Rates(**read_table(__package__, "data/rates.toml")["rates"])


def rates_of(device: str) -> Rates:
    """The rates of a device by its name in devices.toml."""
    table = read_table(__package__, "data/rates.toml")
    row = table["devices"].get(device)
    if row is None:
        source = f"{fitted_rates().source}, none of which is of this device"
        return replace(fitted_rates(), source=source)
    return fitted_rates().slower(row["slower"])
