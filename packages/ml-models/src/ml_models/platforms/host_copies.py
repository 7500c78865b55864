"""Copies of tensors in host memory, for a save that is written while training goes on.

A copy from a device into pageable memory goes through a small buffer of the driver's, and the host
waits for it. Into pinned memory the device writes by itself, on a stream of its own, while it
computes the next step. Then the source must not change before `finish`: training calls it before
the next update, and the writer before it reads.
"""

from typing import Any, Protocol

import torch


class HostCopier(Protocol):
    """Makes copies; all of them are whole after `finish`."""

    def num_bytes(self, tensor: torch.Tensor) -> int:
        """Host memory that a copy of `tensor` takes."""
        ...

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy on the host, which may still be empty."""
        ...

    def finish(self) -> None:
        """Wait until all copies are whole. Any thread may call it, and more than once."""
        ...


class WaitingCopier:
    """Copies into pageable memory; each is whole when `copy` returns."""

    def num_bytes(self, tensor: torch.Tensor) -> int:
        """The tensor's own size."""
        return tensor.numel() * tensor.element_size()

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy on the host, also of a tensor that is there already."""
        return tensor.to("cpu", copy=True)

    def finish(self) -> None:
        """Nothing is left to do."""


class PinnedCopier:
    """Copies into pinned memory on a stream of its own, beside the device's other work."""

    def __init__(self, device_module: Any):
        """device_module: torch.cuda or torch.npu."""
        self._module = device_module
        self._stream: Any = None

    def num_bytes(self, tensor: torch.Tensor) -> int:
        """torch's allocator of pinned memory rounds up to a power of two, and keeps blocks."""
        size = tensor.numel() * tensor.element_size()
        return 1 << max(size - 1, 0).bit_length()

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of a tensor of the device, or of the host."""
        if tensor.device.type == "cpu":
            return tensor.to("cpu", copy=True)
        try:
            copied = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        except RuntimeError:
            # A container may forbid to lock so much memory. The host waits for the copy then.
            return tensor.to("cpu")
        if self._stream is None:
            self._stream = self._module.Stream()
        # The work that made the tensor comes first.
        self._stream.wait_stream(self._module.current_stream())
        with self._module.stream(self._stream):
            copied.copy_(tensor, non_blocking=True)
        # A tensor that is freed meanwhile keeps its memory until the copy is made.
        tensor.record_stream(self._stream)
        return copied

    def finish(self) -> None:
        """Wait for the stream."""
        if self._stream is not None:
            self._stream.synchronize()
