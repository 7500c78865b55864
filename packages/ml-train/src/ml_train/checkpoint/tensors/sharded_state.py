"""Which tensors of a TrainModule go into a checkpoint, and how they come back.

    KEY                            model parameter or buffer, key as ml_models.conversion lists it
    optimizer.state.param.KEY      float32 main parameter; absent in a float32 run, where KEY is it
    optimizer.state.exp_avg.KEY    Adam's first moment
    optimizer.state.exp_avg_sq.KEY Adam's second moment

The plain and the distributed optimizer share these names, so that one loads what the other saved.
Adam's step is one number in run_state.json. Hyperparameters (learning rate, betas, weight decay)
are never read from a checkpoint: the configuration of the run that loads decides.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import (
    ShardedObject,
    ShardedStateDict,
    ShardedTensor,
    ShardedTensorFactory,
    StateDict,
)

from ml_models.megatron_core import differences
from ml_train.checkpoint.tensors import torch_dist
from ml_train.checkpoint.tensors.adam import (
    initialise_adam,
    leaves,
    set_adam_step,
    steps_as_numbers,
)
from ml_train.errors import CheckpointError

if TYPE_CHECKING:
    from megatron.core.optimizer.optimizer import MegatronOptimizer
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
    from megatron.core.transformer.module import MegatronModule

    from ml_models.config import ModelConfig

PARAM = "optimizer.state.param."

Shapes = Mapping[str, tuple[int, ...]]
"""Key of a checkpoint's tensor -> its global shape."""


class TrainedModel(Protocol):
    """What a checkpoint stores of a run and loads into it. TrainModule has these attributes."""

    @property
    def model_chunks(self) -> Sequence[torch.nn.Module]:
        """This rank's virtual pipeline stages."""
        ...

    @property
    def model_config(self) -> "ModelConfig":
        """The model that the chunks are parts of."""
        ...

    @property
    def optimizer(self) -> "MegatronOptimizer | None":
        """None where the weights alone are loaded, as for inference."""
        ...

    @property
    def opt_param_scheduler(self) -> "OptimizerParamScheduler | None":
        """The learning-rate schedule."""
        ...


def unwrapped(chunk: torch.nn.Module) -> torch.nn.Module:
    """The model inside wrappers such as DistributedDataParallel and Float16Module."""
    while isinstance(inner := getattr(chunk, "module", None), torch.nn.Module):
        chunk = inner
    return chunk


def model_state(train_module: TrainedModel) -> dict[str, ShardedStateDict]:
    """Sharded state of each model chunk: model0, model1, ..."""
    state = {}
    for number, chunk in enumerate(train_module.model_chunks):
        with differences.current_virtual_stage(number, len(train_module.model_chunks)):
            stage = cast("MegatronModule", unwrapped(chunk))
            sharded = stage.sharded_state_dict(metadata=differences.sharding_metadata())
        # The ShardedObjects are TransformerEngine's _extra_state: pickles without content.
        state[f"model{number}"] = {
            key: value for key, value in sharded.items() if not isinstance(value, ShardedObject)
        }
    return state


def optimizer_state(
    optimizer: "MegatronOptimizer", model: dict[str, ShardedStateDict], *, is_loading: bool
) -> ShardedStateDict:
    """Sharded state of the optimizer. Collective: the distributed one gathers its shards.

    model: what model_state() gave; the optimizer reads the keys of its parameters there.
    """
    initialise_adam(optimizer)
    with steps_as_numbers(optimizer):
        state = optimizer.sharded_state_dict(
            model, is_loading=is_loading, **differences.sharded_optimizer_arguments()
        )
    torch_dist.rename_optimizer_keys(state)
    return state


def without_redundant_params(
    tensors: dict[str, list[ShardedTensor]],
) -> dict[str, list[ShardedTensor]]:
    """The tensors without the main parameters of float32 runs, which equal the model's."""
    return {
        key: shards
        for key, shards in tensors.items()
        if not (key.startswith(PARAM) and _is_float32(tensors.get(key[len(PARAM) :])))
    }


def load_model(train_module: TrainedModel, folder: Path) -> None:
    """Read the model's parameters and buffers. Collective after the check of keys."""
    state = model_state(train_module)
    loaded = torch_dist.load_tensors(state, folder)
    for number, chunk in enumerate(train_module.model_chunks):
        result = unwrapped(chunk).load_state_dict(loaded[f"model{number}"], strict=False)
        missing = [key for key in result.missing_keys if not key.endswith("_extra_state")]
        if missing or result.unexpected_keys:
            raise CheckpointError(
                f"{folder}: the model does not take what was read: missing {missing[:3]}, "
                f"unexpected {result.unexpected_keys[:3]}."
            )


def load_optimizer(train_module: TrainedModel, folder: Path, available: Shapes, step: int) -> None:
    """Read Adam's moments and the main parameters, and set Adam's step. Collective."""
    optimizer = train_module.optimizer
    initialise_adam(optimizer)
    # Any step but 0: megatron-core's plain optimizers leave out a step of 0 when they describe
    # their state, and raise when they load it without a step. The right step is set at the end.
    set_adam_step(optimizer, max(step, 1))
    state = optimizer_state(optimizer, model_state(train_module), is_loading=True)
    for tensor in _sharded_tensors(state):
        if tensor.key.startswith(PARAM) and tensor.key not in available:
            tensor.key = tensor.key[len(PARAM) :]
    loaded = torch_dist.load_tensors(state, folder)
    parts = leaves(optimizer)
    for number, leaf in enumerate(parts):
        _load_leaf(leaf, loaded if len(parts) == 1 else loaded[number])
    set_adam_step(optimizer, step)


def _load_leaf(leaf: "MegatronOptimizer", loaded: StateDict) -> None:
    if not _is_distributed(leaf):
        leaf.load_state_dict(loaded)
        return
    # megatron-core copies a tensor that was read into every entry of the state. torch's step is an
    # entry, but no tensor of the checkpoint.
    for state in leaf.optimizer.state.values():
        state.pop("step", None)
    differences.load_distributed_state(leaf, loaded["param_state"])


def faults_of_keys(state: ShardedStateDict, available: Shapes) -> str | None:
    """Why a checkpoint with these keys and shapes does not fit, or None."""
    missing, misshapen = [], []
    for tensor in _sharded_tensors(state):
        key = tensor.key
        if key.startswith(PARAM) and key not in available:
            key = key[len(PARAM) :]
        if key not in available:
            missing.append(key)
        elif not tensor.allow_shape_mismatch and available[key] != tuple(tensor.global_shape):
            misshapen.append(f"{key} {list(available[key])} for {list(tensor.global_shape)}")
    if missing:
        return f"it lacks {len(missing)} tensors of the model, among them {sorted(missing)[0]}"
    if misshapen:
        return f"{len(misshapen)} tensors have another shape, among them {sorted(misshapen)[0]}"
    return None


def gathered_prefix(optimizer: "MegatronOptimizer") -> str | None:
    """Prefix of the keys whose tensors are copies that were gathered for the save.

    No update changes them, so a save need not copy them once more. None where there are none.
    """
    gathered = all(_is_distributed(leaf) for leaf in leaves(optimizer))
    return "optimizer.state." if gathered and differences.gathers_distributed_state() else None


def set_schedule(scheduler: "OptimizerParamScheduler", num_steps: int) -> None:
    """Set the schedule to `num_steps` steps done, and the learning rate of the next step."""
    scheduler.num_steps = 0
    scheduler.step(increment=num_steps)


def _is_distributed(leaf: "MegatronOptimizer") -> bool:
    return type(leaf).__name__ == "DistributedOptimizer"


def _sharded_tensors(state: ShardedStateDict) -> Iterator[ShardedTensor]:
    for value in nested_values(state):
        if isinstance(value, (ShardedTensor, ShardedTensorFactory)):
            yield value


def _is_float32(shards: list[ShardedTensor] | None) -> bool:
    return shards is not None and all(shard.dtype == torch.float32 for shard in shards)
