"""Megatron-core's process groups in this process alone, on the CPU platform."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ml_models.errors import MlModelsError
from ml_models.megatron_core.check import check_unknown_line
from ml_models.platforms import get_platform


@contextmanager
def one_process() -> Iterator[None]:
    """Inside, a model can be built and run; outside, everything is as it was.

    Raises MlModelsError in a process that belongs to a group of several.
    """
    platform = get_platform("cpu")
    # The platform has to adapt what megatron-core imports before its first import.
    from megatron.core import parallel_state

    joined = torch.distributed.is_initialized()
    if joined and torch.distributed.get_world_size() != 1:
        raise MlModelsError("compare runs in one process; it was started in a group of several.")
    with tempfile.TemporaryDirectory() as folder:
        if not joined:
            store = f"file://{Path(folder) / 'store'}"
            torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        platform.apply()
        check_unknown_line("ml_models")
        try:
            with platform.context():
                if not parallel_state.model_parallel_is_initialized():
                    parallel_state.initialize_model_parallel()
                yield
        finally:
            if not joined:
                parallel_state.destroy_model_parallel()
                torch.distributed.destroy_process_group()
