"""The bytes that a built TrainModule holds between steps, by what they are for.

It counts storages, each once, on any device: on a real rank and on a planned one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ml_train.checkpoint.tensors.adam import initialise_adam, inner_optimizers

if TYPE_CHECKING:
    from ml_train.training.train_module import TrainModule


@dataclass(frozen=True, kw_only=True)
class HeldBytes:
    """What stays on the device from step to step."""

    parameters: int
    """Of the model, in the dtype of the arithmetic, with the padding of their buffers."""
    gradients: int
    """megatron-core's gradient buffers, float32."""
    main_parameters: int
    """float32 parameters of the optimizer, where they are not the model's own."""
    moments: int
    """Adam's two averages, float32."""

    @property
    def optimizer(self) -> int:
        """Main parameters and moments."""
        return self.main_parameters + self.moments

    @property
    def saved(self) -> int:
        """What a save copies to the host at most: data-parallel ranks share it out among them."""
        return self.parameters + self.optimizer

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer


def held_bytes(train_module: "TrainModule") -> HeldBytes:
    """Count the module's storages. Adam's moments are made where no update has made them yet."""
    initialise_adam(train_module.optimizer)
    counted: set[int] = set()

    def count(tensors: Iterable[Tensor]) -> int:
        total = 0
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in counted:
                counted.add(storage._cdata)
                total += storage.nbytes()
        return total

    chunks = train_module.model_chunks
    inner = list(inner_optimizers(train_module.optimizer))
    # The order decides what a storage counts as: in a float32 run the model's parameters are the
    # optimizer's main parameters.
    parameters = count(parameter.data for chunk in chunks for parameter in chunk.parameters())
    buffers = (buffer for chunk in chunks for buffer in _buffers(chunk))
    gradients = count(buffer.grad_data for buffer in buffers)
    groups = (group for optimizer in inner for group in optimizer.param_groups)
    main = count(parameter.data for group in groups for parameter in group["params"])
    states = (state for optimizer in inner for state in optimizer.state.values())
    # Adam's step is a number on the host, without a dimension.
    moments = count(
        value
        for state in states
        for value in state.values()
        if isinstance(value, Tensor) and value.dim()
    )
    return HeldBytes(
        parameters=parameters, gradients=gradients, main_parameters=main, moments=moments
    )


def _buffers(chunk: object) -> list:  # type: ignore[type-arg]
    return [*chunk.buffers, *chunk.expert_parallel_buffers]  # type: ignore[attr-defined]
