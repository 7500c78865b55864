"""Every random state of a process, as the JSON values of random_states.json.

A checkpoint keeps the states of each global rank together with that rank's coordinates. A rank gets
a state back only if it is the same rank of the same layout. Under another layout every rank keeps
the states that the seed gave it. JSON is read without running code.
"""

import base64
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

from ml_train.parallel.coordinates import coordinates

if TYPE_CHECKING:
    from ml_models.platforms.base import Platform


class _DeviceState(TypedDict, total=False):
    device: dict[str, str]
    """The platform's states by name; absent on the CPU."""


class RandomState(_DeviceState):
    """Random states of one rank. Bytes are in base64."""

    coordinates: str
    """The rank that the states belong to."""
    python: tuple[int, list[int], float | None]
    """random.getstate(): version, internal state, the next gauss."""
    numpy: tuple[str, str, int, int, float]
    """numpy's legacy state: algorithm, keys, position, has_gauss, cached gauss."""
    torch: str
    megatron: dict[str, str]
    """megatron-core's tracker of states for regions of tensor parallelism, by name."""


def random_state(platform: "Platform | None" = None) -> RandomState:
    """Every random state of this process."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = _numpy_state()
    tracker = get_cuda_rng_tracker().get_states()
    state: RandomState = {
        "coordinates": coordinates(),
        "python": (version, list(internal), gauss),
        "numpy": (name, _pack(keys.tobytes()), int(position), int(has_gauss), float(cached)),
        "torch": _pack_tensor(torch.get_rng_state()),
        "megatron": _pack_tensors(tracker),
    }
    if platform is not None and platform.device.type != "cpu":
        state["device"] = _pack_tensors(platform.rng_state())
    return state


def set_random_state(state: RandomState, platform: "Platform | None" = None) -> None:
    """Put back what random_state() took. Accepts lists for tuples, as JSON gives them."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(
        (name, np.frombuffer(_unpack(keys), dtype=np.uint32), position, has_gauss, cached)
    )
    torch.set_rng_state(_unpack_tensor(state["torch"]))
    if state["megatron"]:
        get_cuda_rng_tracker().set_states(_unpack_tensors(state["megatron"]))
    if platform is not None and platform.device.type != "cpu" and "device" in state:
        platform.set_rng_state(_unpack_tensors(state["device"]))


def _numpy_state() -> tuple[str, np.ndarray, int, int, float]:
    state = np.random.get_state(legacy=True)
    # legacy=True gives a tuple; numpy's annotation names the dictionary of legacy=False as well.
    assert isinstance(state, tuple)
    return state


def _pack(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unpack(text: str) -> bytes:
    return base64.b64decode(text)


def _pack_tensor(tensor: torch.Tensor) -> str:
    return _pack(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())


def _unpack_tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(_unpack(text)), dtype=torch.uint8).clone()


def _pack_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: _pack_tensor(tensor) for name, tensor in tensors.items()}


def _unpack_tensors(texts: Mapping[str, str]) -> dict[str, torch.Tensor]:
    return {name: _unpack_tensor(text) for name, text in texts.items()}
