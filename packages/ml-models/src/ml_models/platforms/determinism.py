"""Runs that are equal to the bit: what --deterministic-mode asks of torch and of each platform.

torch.use_deterministic_algorithms refuses an operator whose result depends on timing, and chooses
the deterministic one where there are two. The libraries below torch have switches of their own,
which are environment variables. They are read when a library makes its first handle or group, so
`make_deterministic` comes before the process groups.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ml_models.errors import PlatformError


@dataclass(frozen=True, kw_only=True)
class Switch:
    """An environment variable without which a library's results depend on timing."""

    name: str
    value: str
    """What is set where the user has set nothing."""
    accepted: tuple[str, ...]
    """The user's values that are deterministic as well; compared without regard to case."""
    reason: str
    link: str


CPU: tuple[Switch, ...] = ()
"""gloo adds in an order that the ranks fix."""

CUDA: tuple[Switch, ...] = (
    Switch(
        name="CUBLAS_WORKSPACE_CONFIG",
        value=":4096:8",
        accepted=(":4096:8", ":16:8"),
        reason="cuBLAS chooses between work spaces by timing where several streams use it",
        link="https://docs.nvidia.com/cuda/cublas/#results-reproducibility",
    ),
    Switch(
        name="NCCL_ALGO",
        value="Ring",
        accepted=("Ring", "Tree", "CollnetDirect", "CollnetChain", "^NVLS"),
        reason="NCCL's choice of an algorithm decides the order in which gradients are added",
        link="https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-algo",
    ),
    Switch(
        name="NVTE_ALLOW_NONDETERMINISTIC_ALGO",
        value="0",
        accepted=("0",),
        reason="TransformerEngine's attention adds gradients in the order in which blocks end",
        link="https://docs.nvidia.com/deeplearning/transformer-engine/user-guide/envvars.html",
    ),
)

NPU: tuple[Switch, ...] = (
    Switch(
        name="HCCL_DETERMINISTIC",
        value="true",
        accepted=("true", "strict"),
        reason="HCCL adds gradients in the order in which they arrive",
        link="https://www.hiascend.com/document/detail/en/canncommercial/850/maintenref/envvar/"
        "envref_07_0099.html",
    ),
    Switch(
        name="CLOSE_MATMUL_K_SHIFT",
        value="1",
        accepted=("1",),
        reason="cores shift the K axis of a matrix product, so that they add in another order; "
        "MindSpeed's --npu-deterministic sets the same",
        link="https://gitcode.com/Ascend/MindSpeed",
    ),
)


def make_deterministic(name: str, switches: tuple[Switch, ...] | None) -> None:
    """Set torch's mode and the switches of the platform `name` for this process.

    Raises PlatformError where the platform has no table of switches (None), or where the
    environment holds a value that is not deterministic.
    """
    if switches is None:
        raise PlatformError(
            f"--deterministic-mode on the platform {name}: the platform does not say what makes "
            "its libraries deterministic (its attribute `deterministic_switches`). Drop the flag."
        )
    os.environ.update(_missing(switches, os.environ))
    torch.use_deterministic_algorithms(True)


def _missing(switches: tuple[Switch, ...], environment: Mapping[str, str]) -> dict[str, str]:
    """The switches to set. Raises PlatformError for a value of the user that contradicts."""
    values = {}
    for switch in switches:
        given = environment.get(switch.name)
        if given is None:
            values[switch.name] = switch.value
        elif given.lower() not in {value.lower() for value in switch.accepted}:
            raise PlatformError(
                f"--deterministic-mode with {switch.name}={given}: {switch.reason}. Set it to "
                f"{' or '.join(switch.accepted)}, unset it, or drop the flag."
            )
    return values
