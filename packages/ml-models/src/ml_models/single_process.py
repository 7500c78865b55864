"""Process groups and a whole model in one process: what compare, generate and evaluate run on.

megatron-core builds a model of process groups only, so a single process makes groups of itself.
This module imports megatron-core: import it after `bring_up.start_platform`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from ml_models.bring_up import import_model_code
from ml_models.build import build_model, make_transformer_config
from ml_models.process_groups import backends_outlive_groups, destroy_process_groups

if TYPE_CHECKING:
    from megatron.core.models.gpt import GPTModel

    from ml_models.config import ModelConfig
    from ml_models.platforms.base import Platform


@contextmanager
def process_group(platform: "Platform") -> Iterator[None]:
    """torch.distributed with this process alone. A group of one process that is there is used."""
    if dist.is_initialized():
        assert dist.get_world_size() == 1
        yield
        return
    # A store in memory: no port and no file, as nobody else will ask.
    store = torch._C._distributed_c10d.HashStore()
    dist.init_process_group(platform.backend, store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        destroy_process_groups()


@contextmanager
def whole_model(
    model: "ModelConfig", platform: "Platform", *, padded_vocab_size: int, **settings: Any
) -> Iterator["GPTModel"]:
    """The model with parameters that are not initialised, inside the platform's context.

    Needs `process_group`. `settings` are fields of megatron-core's TransformerConfig, such as bf16.
    The module's `config` is that TransformerConfig.
    """
    import_model_code(model)
    with platform.context():
        makes_groups = not parallel_state.model_parallel_is_initialized()
        if makes_groups:
            parallel_state.initialize_model_parallel(
                create_gloo_process_groups=platform.needs_gloo_groups
            )
        try:
            transformer = make_transformer_config(
                model, device=platform.device, perform_initialization=False, **settings
            )
            yield build_model(
                model,
                transformer,
                padded_vocab_size=padded_vocab_size,
                pre_process=True,
                post_process=True,
            )
        finally:
            if makes_groups:
                with backends_outlive_groups():
                    parallel_state.destroy_model_parallel()
