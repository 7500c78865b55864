"""The interface between a run and the device that it runs on."""

from contextlib import AbstractContextManager
from typing import Protocol

import torch

from ml_models.platforms.determinism import Switch
from ml_models.platforms.host_copies import HostCopier
from ml_models.platforms.variables import Variable


class Platform(Protocol):
    """One kind of device. Constructing it changes nothing; `apply` and `context` are explicit."""

    name: str
    """cpu, cuda, npu, or what a plug-in calls itself."""
    backend: str
    """Backend of torch.distributed: gloo, nccl, hccl."""
    backend_aliases: tuple[str, ...]
    """Other names for `backend` in a user's scripts; a plug-in may lack this attribute."""
    needs_gloo_groups: bool
    """Whether megatron-core makes a gloo group beside each group, for tensors on the host."""

    variables: tuple[Variable, ...]
    """The environment that a launcher gives the processes of a run on such devices."""
    deterministic_switches: tuple[Switch, ...]
    """What --deterministic-mode sets; a plug-in that lacks this attribute refuses the flag."""
    keeps_logs: bool
    """Whether a launcher keeps what every process says in files, since nobody watches them all."""

    @property
    def device(self) -> torch.device:
        """The device of this process; after `set_device` with its index."""
        ...

    @classmethod
    def available(cls) -> bool:
        """Whether such a device and its libraries are there."""
        ...

    @classmethod
    def why_unavailable(cls) -> str:
        """Where `available` is False, the reason and the way out, as part of a sentence."""
        ...

    def set_device(self, local_rank: int) -> None:
        """Choose the device of this process."""
        ...

    def apply(self) -> list[str]:
        """Adapt megatron-core to the device, once; returns what was adapted, for the log.

        Called by an entry point before the first model is built, never at import.
        """
        ...

    def context(self) -> AbstractContextManager[None]:
        """Entered around all that builds or runs a model. Outside it torch is unchanged."""
        ...

    def host_copier(self) -> HostCopier:
        """What copies tensors to the host for a save in the background; a new object each time."""
        ...

    def synchronize(self) -> None:
        """Wait for the work that was queued on the device."""
        ...

    def memory_bytes(self) -> int:
        """Peak memory since the last reset: of the device, or resident memory on the CPU."""
        ...

    def reset_peak_memory(self) -> None:
        """Start a new peak."""
        ...

    def rng_state(self) -> dict[str, torch.Tensor]:
        """Random states of torch on the host and the device, as tensors."""
        ...

    def set_rng_state(self, state: dict[str, torch.Tensor]) -> None:
        """The inverse of rng_state."""
        ...

    def peak_tflops(self, dtype: torch.dtype, /) -> float | None:
        """Dense peak of one device in TFLOP/s; None where the maker's figure is not known."""
        ...
