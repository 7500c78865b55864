"""What a checkpoint says about the run besides tensors: run_state.json and random_states.json.

Both are JSON, so that reading them runs no code. Random states are kept per global rank together
with that rank's coordinates: a rank gets a state back only if it is the same rank of the same
layout. Under another layout every rank keeps the states that the seed gave it.
"""

import base64
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands."""

    iteration: int
    """Optimizer steps done."""
    consumed_samples: int
    """Sequences taken from the training data so far: the data position."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the Trainer wants back; JSON values."""

    @classmethod
    def of(cls, value: "RunState | Mapping[str, Any]") -> "RunState":
        """Accepts the dictionary that Trainer.run_state() returns as well."""
        if isinstance(value, RunState):
            return value
        rest = dict(value)
        return cls(
            iteration=int(rest.pop("iteration")),
            consumed_samples=int(rest.pop("consumed_samples", 0)),
            extra=rest,
        )

    def to_dict(self) -> dict[str, Any]:
        """Flat, as Trainer.run_state() gives it."""
        values = {"iteration": self.iteration, "consumed_samples": self.consumed_samples}
        return {**self.extra, **values}


def layout() -> dict[str, int]:
    """Sizes of the parallel layout that megatron-core was set up with."""
    from megatron.core import parallel_state as state

    return {
        "world": torch.distributed.get_world_size(),
        "tp": state.get_tensor_model_parallel_world_size(),
        "pp": state.get_pipeline_model_parallel_world_size(),
        "vp": state.get_virtual_pipeline_model_parallel_world_size() or 1,
        "ep": state.get_expert_model_parallel_world_size(),
        "etp": state.get_expert_tensor_parallel_world_size(),
        "cp": state.get_context_parallel_world_size(),
        "dp": state.get_data_parallel_world_size(),
    }


def coordinates() -> str:
    """This rank's place in the layout, for instance tp0-pp1-ep1-etp0-cp0-dp0."""
    from megatron.core import parallel_state as state

    return "-".join(
        (
            f"tp{state.get_tensor_model_parallel_rank()}",
            f"pp{state.get_pipeline_model_parallel_rank()}",
            f"ep{state.get_expert_model_parallel_rank()}",
            f"etp{state.get_expert_tensor_parallel_rank()}",
            f"cp{state.get_context_parallel_rank()}",
            f"dp{state.get_data_parallel_rank()}",
        )
    )


def random_state(platform: Any = None) -> dict[str, Any]:
    """Every random state of this process, as JSON values."""
    version, internal, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=True)
    name, keys, position, has_gauss, cached = legacy
    state: dict[str, Any] = {
        "coordinates": coordinates(),
        "python": [version, list(internal), gauss],
        "numpy": [name, _pack(keys.tobytes()), int(position), int(has_gauss), float(cached)],
        "torch": _pack_tensor(torch.get_rng_state()),
        "megatron": {name: _pack_tensor(value) for name, value in _tracker().get_states().items()},
    }
    if platform is not None and platform.device.type != "cpu":
        state["device"] = {
            name: _pack_tensor(value) for name, value in platform.rng_state().items()
        }
    return state


def set_random_state(state: Mapping[str, Any], platform: Any = None) -> None:
    """Put back what random_state() took."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(
        (name, np.frombuffer(_unpack(keys), dtype=np.uint32), position, has_gauss, cached)
    )
    torch.set_rng_state(_unpack_tensor(state["torch"]))
    if state["megatron"]:
        _tracker().set_states(
            {name: _unpack_tensor(value) for name, value in state["megatron"].items()}
        )
    if platform is not None and platform.device.type != "cpu" and "device" in state:
        platform.set_rng_state(
            {name: _unpack_tensor(value) for name, value in state["device"].items()}
        )


def _tracker() -> Any:
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    return get_cuda_rng_tracker()


def _pack(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unpack(text: str) -> bytes:
    return base64.b64decode(text)


def _pack_tensor(tensor: torch.Tensor) -> str:
    return _pack(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())


def _unpack_tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(_unpack(text)), dtype=torch.uint8).clone()
