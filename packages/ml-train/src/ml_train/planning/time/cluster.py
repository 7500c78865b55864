"""The machines whose step times are asked for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_train.planning.time.rates import Rates

if TYPE_CHECKING:
    from ml_models.platforms.devices import Device


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The devices of a job."""

    device: "Device"
    devices_per_node: int
    """That a node gives to the job."""
    rates: Rates
