"""Open a checkpoint for inference: one process holds the whole model, whatever layout saved it.

Trade-off: no parallelism, and one sequence at a time. A sample after training needs no more;
serving is another program's work. This module imports megatron-core: import it after
ml_train.bring_up.start_platform.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from ml_models import registry
from ml_models.build import pad_vocab_size
from ml_models.errors import MlModelsError
from ml_models.single_process import process_group, whole_model
from ml_train import terminal
from ml_train.checkpoint.manager import CheckpointManager
from ml_train.checkpoint.ownership import find
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.errors import CheckpointError
from ml_train.generation.cache import RememberingModel

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_models.platforms.base import Platform

_VOCAB_MULTIPLE = 128
"""Megatron's default padding. Loading accepts a checkpoint whose vocabulary is padded otherwise,
and the padded logits are cut off."""


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A model ready for forward passes."""

    module: torch.nn.Module
    model_config: "ModelConfig"
    device: torch.device
    folder: Path
    """The checkpoint it came from."""

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """fp32 [batch, sequence, vocabulary] of int64 tokens [batch, sequence]."""
        return self._forward(tokens).float()[..., : self.model_config.vocab_size]

    def losses(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy [batch, sequence] of each label, nats."""
        return self._forward(tokens, labels=labels.to(self.device)).float()

    def remembering(self) -> RememberingModel:
        """The same model with a key/value cache, for a sequence that grows.

        Changes the module: `logits` and `losses` give wrong numbers afterwards.
        """
        return RememberingModel(
            self.module, vocab_size=self.model_config.vocab_size, device=self.device
        )

    def _forward(self, tokens: torch.Tensor, **labels: torch.Tensor) -> torch.Tensor:
        tokens = tokens.to(self.device)
        positions = torch.arange(tokens.shape[1], device=self.device).expand_as(tokens)
        with torch.inference_mode():
            output: torch.Tensor = self.module(tokens, positions, None, **labels)
        return output


@contextmanager
def open_model(load: str, platform: "Platform", *, bf16: bool = False) -> Iterator[OpenModel]:
    """The newest whole checkpoint of the directory `load`, or the checkpoint that `load` is.

    `platform` comes from ml_train.bring_up.start_platform. Raises CheckpointError.
    """
    with process_group(platform):
        folder = find.choose(
            CheckpointSection(load=load), group=dist.new_group(backend="gloo"), say=terminal.notice
        )
        assert folder is not None  # None is only for a --load that is --save as well
        model = _model_config(folder)
        with whole_model(
            model,
            platform,
            padded_vocab_size=pad_vocab_size(model.vocab_size, _VOCAB_MULTIPLE, 1),
            bf16=bf16,
            params_dtype=torch.bfloat16 if bf16 else torch.float32,
        ) as module:
            module.eval()
            _load_weights(module, model, folder, platform)
            yield OpenModel(
                module=module, model_config=model, device=platform.device, folder=folder
            )


def _load_weights(
    module: torch.nn.Module, model: "ModelConfig", folder: Path, platform: "Platform"
) -> None:
    run = SimpleNamespace(
        model_chunks=[module],
        optimizer=None,
        opt_param_scheduler=None,
        model_config=model,
        transformer_config=module.config,
    )
    config = CheckpointSection(
        load=str(folder), no_load_optim=True, no_load_rng=True, no_verify_checksums=True
    )
    CheckpointManager(config, platform=platform, say=_ignore).load(run)


def _ignore(message: str) -> None:
    """The manager tells that the optimizer starts anew, which is no news for inference."""


def _model_config(folder: Path) -> "ModelConfig":
    try:
        values = json.loads((folder / "model_config.json").read_text(encoding="utf-8"))
        return registry.from_dict(values)
    except (OSError, ValueError, MlModelsError) as error:
        raise CheckpointError(f"{folder}/model_config.json cannot be used: {error}") from error
