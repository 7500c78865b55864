"""NVIDIA devices with NCCL, for which megatron-core is written: few names may be missing."""

import contextlib
from collections.abc import Iterator

import torch

from ml_models.megatron_core import lines, requirements
from ml_models.platforms import determinism, patch, variables
from ml_models.platforms.cpu_core import WITHOUT_TRANSFORMER_ENGINE
from ml_models.platforms.device_core import ON_DEVICE
from ml_models.platforms.devices import reported_device
from ml_models.platforms.host_copies import PinnedCopier
from ml_models.platforms.transferred import TRANSFER, cuda_means_npu


class CudaPlatform:
    """One GPU per process."""

    name = "cuda"
    backend = "nccl"
    backend_aliases = ()
    needs_gloo_groups = False
    variables = variables.CUDA
    deterministic_switches = determinism.CUDA
    keeps_logs = True

    def __init__(self) -> None:
        self._index = 0

    @property
    def device(self) -> torch.device:
        """This process's GPU."""
        return torch.device("cuda", self._index)

    @classmethod
    def available(cls) -> bool:
        """Whether torch sees a GPU."""
        return torch.cuda.is_available() and not cuda_means_npu()

    @classmethod
    def why_unavailable(cls) -> str:
        """torch.cuda is an NPU in this process, a build without CUDA, or no driver."""
        if cuda_means_npu():
            return f"{TRANSFER} has made torch.cuda mean the NPU in this process"
        if torch.version.cuda is None and torch.version.hip is None:
            return requirements.reason_of_cpu_build()
        return "torch finds no GPU or no driver of it; nvidia-smi shows what there is"

    def set_device(self, local_rank: int) -> None:
        """GPU number local_rank of this machine."""
        self._index = local_rank
        torch.cuda.set_device(local_rank)

    def apply(self) -> list[str]:
        """Put in place what megatron-core lacks without TransformerEngine and with numpy 2."""
        return patch.apply((*WITHOUT_TRANSFORMER_ENGINE, *ON_DEVICE), lines.installed_line())

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Nothing to redirect."""
        yield

    def host_copier(self) -> PinnedCopier:
        """Into pinned memory, while the GPU computes the next step."""
        return PinnedCopier(torch.cuda)

    def synchronize(self) -> None:
        """Wait for the GPU."""
        torch.cuda.synchronize()

    def memory_bytes(self) -> int:
        """Peak of allocated GPU memory since the last reset."""
        return int(torch.cuda.max_memory_allocated())

    def reset_peak_memory(self) -> None:
        """Start a new peak."""
        torch.cuda.reset_peak_memory_stats()

    def rng_state(self) -> dict[str, torch.Tensor]:
        """States of torch's generators on host and GPU."""
        return {"torch": torch.get_rng_state(), "device": torch.cuda.get_rng_state()}

    def set_rng_state(self, state: dict[str, torch.Tensor]) -> None:
        """The inverse of rng_state."""
        torch.set_rng_state(state["torch"])
        torch.cuda.set_rng_state(state["device"])

    def peak_tflops(self, dtype: torch.dtype) -> float | None:
        """From the data sheet, dense; None for a GPU that devices.toml lacks."""
        row = reported_device(torch.cuda.get_device_name(self._index))
        return row.peak_tflops(str(dtype)) if row else None
