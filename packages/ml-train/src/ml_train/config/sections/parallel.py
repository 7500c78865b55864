"""How a run is spread over processes."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from ml_train.config.sections.rules import COUNT, Range, Section
from ml_train.errors import ConfigError

_TIMEOUT_MINUTES = Range(
    at_least=0.05, at_most=7 * 24 * 60, text="from 0.05 (3 seconds) to 10080 (a week)"
)


@dataclass(frozen=True, kw_only=True)
class ParallelSection(Section):
    """Sizes of the parallel dimensions. What is left of the world is data parallelism."""

    tensor_model_parallel_size: Annotated[int, COUNT] = 1
    """Processes that share each weight matrix (TP)."""

    pipeline_model_parallel_size: Annotated[int, COUNT] = 1
    """Stages that the layers are cut into (PP)."""

    num_layers_per_virtual_pipeline_stage: Annotated[int | None, COUNT] = None
    """Layers in one virtual stage; set, each process holds several (interleaved schedule)."""

    decoder_first_pipeline_num_layers: Annotated[int | None, COUNT] = None
    """Layers on the first stage, when the stages are to be uneven."""

    decoder_last_pipeline_num_layers: Annotated[int | None, COUNT] = None
    """Layers on the last stage, when the stages are to be uneven."""

    expert_model_parallel_size: Annotated[int, COUNT] = 1
    """Groups that the experts are dealt to (EP)."""

    expert_tensor_parallel_size: Annotated[int | None, COUNT] = None
    """Processes that share each expert's matrices (ETP). Unset: the same as TP."""

    context_parallel_size: Annotated[int, COUNT] = 1
    """Processes that share each sequence (CP). Only 1 is supported."""

    sequence_parallel: bool | None = None
    """Split activations along the sequence between TP ranks. Unset: on when TP > 1."""

    overlap_grad_reduce: bool = False
    """Reduce gradients while the backward pass still runs."""

    overlap_param_gather: bool = False
    """Accepted with the distributed optimizer, but all parameters are gathered before each step."""

    # Not a Literal: a platform of a plug-in may have a backend of its own.
    distributed_backend: str | None = None
    """nccl, gloo or hccl. The platform decides it; given, it must agree. npu takes nccl too."""

    distributed_timeout_minutes: Annotated[float, _TIMEOUT_MINUTES] = 10.0
    """How long any collective of any group waits before the job fails; 0.5 is half a minute."""

    @property
    def timeout(self) -> timedelta:
        """The timeout of every process group."""
        return timedelta(minutes=self.distributed_timeout_minutes)

    @property
    def expert_tensor_size(self) -> int:
        """Processes that share each expert's matrices."""
        return self.expert_tensor_parallel_size or self.tensor_model_parallel_size

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context_parallel_size != 1:
            raise ConfigError(
                f"--context-parallel-size is {self.context_parallel_size}, but only 1 is "
                "supported: Grok-1's capped attention has no ring or Ulysses form here. Shorten "
                "--seq-length or raise --tensor-model-parallel-size instead."
            )


DEFAULT_TIMEOUT = ParallelSection().timeout
