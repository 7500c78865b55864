"""Ascend devices with HCCL, through torch_npu and, where one is installed, an adaptor of Ascend.

Each step of `apply` is explicit and happens once, in the order that the libraries need: torch_npu;
transfer_to_npu, which turns torch.cuda into torch.npu; MindSpeed's adaptor or MegatronAdaptor
(ascend_adaptors.py), before megatron-core is imported; the rows of megatron-core that an NPU needs.
Ascend's apex is left alone: its NpuFusedAdamW works under apex's own mixed precision only, and
MindSpeed brings an AdamW. No NPU was available to this project. ml-train's tests train on a
simulated one; the order and the conditions are tested with stand-in modules, and the adaptors
themselves are not.
"""

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import torch

from ml_models.errors import PlatformError
from ml_models.megatron_core import lines
from ml_models.platforms import ascend_adaptors, determinism, patch, variables
from ml_models.platforms.cpu_core import TYPE_NAMES, WITHOUT_TRANSFORMER_ENGINE
from ml_models.platforms.device_core import ON_DEVICE
from ml_models.platforms.devices import reported_device
from ml_models.platforms.host_copies import PinnedCopier
from ml_models.platforms.transferred import TORCH_CUDA_ON_NPU, TRANSFER


class NpuPlatform:
    """One NPU per process."""

    name = "npu"
    backend = "hccl"
    backend_aliases = ("nccl",)  # transfer_to_npu makes hccl of it
    needs_gloo_groups = False
    variables = variables.NPU
    deterministic_switches = determinism.NPU
    keeps_logs = True

    def __init__(self) -> None:
        self._index = 0
        self._applied: list[str] = []

    @property
    def device(self) -> torch.device:
        """This process's NPU."""
        return torch.device("npu", self._index)

    @classmethod
    def available(cls) -> bool:
        """Whether torch_npu is installed, can be imported and sees an NPU."""
        if importlib.util.find_spec("torch_npu") is None:
            return False
        try:
            importlib.import_module("torch_npu")
        except (ImportError, OSError, RuntimeError):
            # Without Ascend's CANN libraries the import itself fails.
            return False
        return bool(_npu().is_available())

    @classmethod
    def why_unavailable(cls) -> str:
        """torch_npu or CANN is missing, or there is no NPU."""
        error = _import_error_of_torch_npu()
        if error is not None:
            return (
                f"torch_npu or Ascend's CANN libraries are missing ({error}); install both and "
                "source CANN's set_env.sh"
            )
        return "torch_npu finds no NPU; npu-smi info shows what there is"

    def set_device(self, local_rank: int) -> None:
        """NPU number local_rank of this machine."""
        _require_torch_npu()
        self._index = local_rank
        _npu().set_device(local_rank)

    def apply(self) -> list[str]:
        """Load the adapters in the order of the module's docstring; a second call loads nothing."""
        if self._applied:
            return list(self._applied)
        _require_torch_npu()
        importlib.import_module(TRANSFER)
        done = ["torch_npu", f"{TRANSFER}: torch.cuda means torch.npu"]
        line = lines.installed_line()
        done += ascend_adaptors.load(line)
        rows = (*TORCH_CUDA_ON_NPU, *WITHOUT_TRANSFORMER_ENGINE, *TYPE_NAMES, *ON_DEVICE)
        done += patch.apply(rows, line)
        self._applied = done
        return list(done)

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Nothing to enter: transfer_to_npu redirects for the whole process."""
        yield

    def host_copier(self) -> PinnedCopier:
        """Into pinned memory, while the NPU computes the next step."""
        return PinnedCopier(_npu())

    def synchronize(self) -> None:
        """Wait for the NPU."""
        _npu().synchronize()

    def memory_bytes(self) -> int:
        """Peak of allocated NPU memory since the last reset."""
        return int(_npu().max_memory_allocated())

    def reset_peak_memory(self) -> None:
        """Start a new peak."""
        _npu().reset_peak_memory_stats()

    def rng_state(self) -> dict[str, torch.Tensor]:
        """States of torch's generators on host and NPU."""
        return {"torch": torch.get_rng_state(), "device": _npu().get_rng_state()}

    def set_rng_state(self, state: dict[str, torch.Tensor]) -> None:
        """The inverse of rng_state."""
        torch.set_rng_state(state["torch"])
        _npu().set_rng_state(state["device"])

    def peak_tflops(self, dtype: torch.dtype) -> float | None:
        """From the maker's figures, dense; None for an NPU that devices.toml lacks."""
        row = reported_device(_npu().get_device_name(self._index))
        return row.peak_tflops(str(dtype)) if row else None


def _npu() -> Any:
    return torch.npu  # type: ignore[attr-defined]


def _import_error_of_torch_npu() -> Exception | None:
    try:
        importlib.import_module("torch_npu")
    except (ImportError, OSError, RuntimeError) as error:
        return error
    return None


def _require_torch_npu() -> None:
    error = _import_error_of_torch_npu()
    if error is not None:
        raise PlatformError(
            f"The npu platform needs torch_npu and Ascend's CANN libraries: {error}. Install both, "
            "source CANN's set_env.sh, or choose --device cpu."
        ) from error
