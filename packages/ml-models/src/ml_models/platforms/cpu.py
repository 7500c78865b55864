"""The CPU with gloo: a whole platform, for development, tests and small runs.

megatron-core is written for CUDA. `apply` puts the rows of cpu_core.CORE in place for the process;
`context` answers for torch.cuda until it is left. Both refuse where CUDA is in use.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from ml_models.errors import PlatformError
from ml_models.megatron_core import lines
from ml_models.platforms import determinism, patch, variables
from ml_models.platforms.cpu_core import CORE
from ml_models.platforms.cpu_device import CPU, TORCH_CUDA, DeviceArguments
from ml_models.platforms.host_copies import WaitingCopier


class CpuPlatform:
    """Processes on the cores of a machine."""

    name = "cpu"
    backend = "gloo"
    backend_aliases: tuple[str, ...] = ()
    needs_gloo_groups = True
    variables = variables.CPU
    deterministic_switches = determinism.CPU
    keeps_logs = False

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return CPU

    @classmethod
    def available(cls) -> bool:
        """Always."""
        return True

    @classmethod
    def why_unavailable(cls) -> str:
        """No caller asks, because a CPU is always there."""
        return "there is always a CPU"

    def set_device(self, local_rank: int) -> None:
        """All processes share the CPU: there is nothing to choose."""

    def apply(self) -> list[str]:
        """Adapt megatron-core to CPU tensors and gloo; returns the rows."""
        _refuse_cuda()
        return patch.apply(CORE, lines.installed_line())

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Inside, device arguments and the names of torch.cuda mean the CPU."""
        _refuse_cuda()
        with patch.temporarily(TORCH_CUDA), DeviceArguments():
            yield

    def host_copier(self) -> WaitingCopier:
        """Memory to memory: each copy is whole when its call returns."""
        return WaitingCopier()

    def synchronize(self) -> None:
        """Work is done when its call returns."""

    def memory_bytes(self) -> int:
        """Peak resident memory of this process since the last reset."""
        try:
            status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            # Windows has no such module, and Linux does not need it.
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            # macOS counts in bytes, the other systems without /proc in KiB.
            return peak if sys.platform == "darwin" else peak * 1024
        # The "high water mark" of resident memory, in KiB.
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def reset_peak_memory(self) -> None:
        """Start a new peak, where the kernel lets a process do that (Linux)."""
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def rng_state(self) -> dict[str, torch.Tensor]:
        """State of torch's generator."""
        return {"torch": torch.get_rng_state()}

    def set_rng_state(self, state: dict[str, torch.Tensor]) -> None:
        """The inverse of rng_state."""
        torch.set_rng_state(state["torch"])

    def peak_tflops(self, _: torch.dtype) -> float | None:
        """None: makers quote no such figure; --peak-tflops-per-device sets one."""
        return None


def _refuse_cuda() -> None:
    if torch.cuda.is_initialized():
        raise PlatformError(
            "The cpu platform was asked for in a process that already uses CUDA: it redirects "
            "CUDA calls of megatron-core to the CPU. Start a process of its own for it, with "
            "CUDA_VISIBLE_DEVICES set to nothing."
        )
