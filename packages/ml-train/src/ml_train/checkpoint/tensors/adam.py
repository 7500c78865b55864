"""Adam's step: which updates an optimizer has made, in the form in which each Adam keeps the count.

    torch's Adam and AdamW           a float32 tensor in the state of each parameter, on the host;
                                     fused or capturable: on the parameter's device
    apex's and TransformerEngine's   an int in the parameter group; capturable: a device tensor
    MindSpeed's AdamW                an int64 tensor on the device, in the parameter group

The last two make the count at their first update. Adam divides by 1 - beta^step, so that a run that
resumes without the count has other losses.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from megatron.core.optimizer.optimizer import MegatronOptimizer

TORCH_ADAM = (torch.optim.Adam, torch.optim.AdamW)


def adam_step(optimizer: "MegatronOptimizer") -> int:
    """Updates that Adam has made; fewer than the iterations where updates were skipped."""
    for inner in inner_optimizers(optimizer):
        for state in inner.state.values():
            if "step" in state:
                return int(state["step"])
        for group in inner.param_groups:
            if "step" in group:
                return int(group["step"])
    return 0


def set_adam_step(optimizer: "MegatronOptimizer", step: int) -> None:
    """Set the count of updates of every parameter.

    The core's distributed optimizer hands one tensor to all parameters, and torch's Adam adds to it
    in place: the step would grow by the number of parameters at each update. So each gets its own.
    """
    for inner in inner_optimizers(optimizer):
        has_torch_state = isinstance(inner, TORCH_ADAM)
        for parameter, state in inner.state.items():
            if "step" in state or has_torch_state:
                state["step"] = _step_of_parameter(inner, parameter, step)
                has_torch_state = True
        if has_torch_state:
            continue
        for group in inner.param_groups:
            group["step"] = _step_of_group(inner, group, step)


def initialise_adam(optimizer: "MegatronOptimizer") -> None:
    """Moments of zero for parameters that have had no update yet.

    The core's distributed optimizer reads the step from existing state and fails without any.
    """
    for inner in inner_optimizers(optimizer):
        if not isinstance(inner, TORCH_ADAM):
            continue
        for group in inner.param_groups:
            for parameter in group["params"]:
                state = inner.state[parameter]
                state.setdefault("step", _step_of_parameter(inner, parameter, 0))
                for name in ("exp_avg", "exp_avg_sq"):
                    if name not in state:
                        state[name] = torch.zeros_like(parameter.data)


@contextlib.contextmanager
def steps_as_numbers(optimizer: "MegatronOptimizer") -> Iterator[None]:
    """Inside, the step of a parameter group is an int.

    megatron-core compares the groups' steps by putting them into a set, where two tensors of one
    value are two. Outside, a tensor is a tensor again: MindSpeed adds to it in place.
    """
    tensors = [
        (group, group["step"])
        for inner in inner_optimizers(optimizer)
        for group in inner.param_groups
        if isinstance(group.get("step"), torch.Tensor)
    ]
    for group, step in tensors:
        group["step"] = int(step)
    try:
        yield
    finally:
        for group, step in tensors:
            group["step"] = step


def leaves(optimizer: "MegatronOptimizer") -> list["MegatronOptimizer"]:
    """The optimizers of a ChainedOptimizer, such as those of dense and of expert parameters."""
    return getattr(optimizer, "chained_optimizers", None) or [optimizer]


def inner_optimizers(optimizer: "MegatronOptimizer") -> Iterator[torch.optim.Optimizer]:
    """The optimizers that megatron-core's wrap; a rank without parameters has none."""
    for leaf in leaves(optimizer):
        if getattr(leaf, "optimizer", None) is not None:
            yield leaf.optimizer


def _step_of_parameter(
    inner: torch.optim.Optimizer, parameter: torch.Tensor, step: int
) -> torch.Tensor:
    """`step` as torch's Adam keeps it in a parameter's state, a tensor of its own."""
    # A fused kernel reads it on the device, and fails or reads other memory if it is on the host.
    on_device = any(group.get("fused") or group.get("capturable") for group in inner.param_groups)
    device = parameter.device if on_device else torch.device("cpu")
    return torch.tensor(float(step), dtype=torch.float32, device=device)


def _step_of_group(
    inner: torch.optim.Optimizer, group: dict[str, Any], step: int
) -> int | torch.Tensor:
    """`step` as `inner` keeps it in a parameter group."""
    device = next((parameter.device for parameter in group["params"]), None)
    if isinstance(group.get("step"), torch.Tensor):
        return torch.full_like(group["step"], step)
    # MindSpeed calls methods of a tensor on it.
    if any(base.__module__.startswith("mindspeed.") for base in type(inner).__mro__):
        return torch.tensor(step, dtype=torch.int64, device=device)
    if getattr(inner, "capturable", False):
        return torch.tensor([step], dtype=torch.int32, device=device)
    return step
