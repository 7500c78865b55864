"""Megatron-core's own dist_checkpointing over converted folders, in several layouts."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ml_models.config import ModelConfig
from ml_models.shards import METADATA
from model_checks import step
from model_checks.process import layout

PADDED = 96  # the vocabulary is padded to a multiple of this, so that padding is there


def _build(config: ModelConfig, sizes: tuple[int, int, int, int]) -> tuple[Any, Any]:
    from megatron.core import parallel_state

    from ml_models.build import build_model

    layout(*sizes)
    settings = step._settings(config, sizes, {})
    model = build_model(
        config,
        settings,
        padded_vocab_size=-(-config.vocab_size // PADDED) * PADDED,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
    )
    return model, settings


def _sharded(model: Any) -> dict[str, Any]:
    from megatron.core.dist_checkpointing import ShardedTensor

    state = model.sharded_state_dict(metadata=dict(METADATA))
    return {key: value for key, value in state.items() if isinstance(value, ShardedTensor)}


def load_and_step(
    folder: Path, config: ModelConfig, ids: Tensor, sizes: tuple[int, int, int, int]
) -> dict[str, Tensor] | None:
    """On rank 0: the first step's loss, logits and so on after dist_checkpointing.load."""
    from megatron.core import dist_checkpointing

    model, settings = _build(config, sizes)
    state = _sharded(model)
    shapes = {key: tuple(value.data.shape) for key, value in state.items()}
    loaded = dist_checkpointing.load({"model": state}, str(folder))["model"]
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key, shape in shapes.items():
            assert tuple(loaded[key].shape) == shape
            if key in parameters:
                parameters[key].copy_(loaded[key])
    outputs, loss = step._forward_backward(model, settings, ids)
    return step._collect(model, outputs, loss, ids, sizes[0])


def save(folder: Path, config: ModelConfig, sizes: tuple[int, int, int, int]) -> None:
    """Initial weights, written by megatron-core in a layout."""
    import multiprocessing

    from megatron.core import dist_checkpointing

    model, _ = _build(config, sizes)
    own = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    own["daemon"] = False  # the core's writer starts a process, which daemons may not
    try:
        dist_checkpointing.save({"model": _sharded(model), "iteration": 1}, str(folder))
    finally:
        own["daemon"] = True
