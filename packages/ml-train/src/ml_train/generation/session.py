"""Open a checkpoint for inference: one process holds the whole model, whatever layout saved it.

Trade-off: no parallelism and one sequence at a time. That is what a sample after training needs;
serving is another program's work.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from ml_train import terminal
from ml_train.checkpoint import find
from ml_train.checkpoint.manager import CheckpointManager
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.errors import CheckpointError

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_train.generation.cache import RememberingModel


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
        found = self._forward(tokens)
        return found.float()[..., : self.model_config.vocab_size]

    def remembering(self) -> "RememberingModel":
        """Logits of a growing sequence by a key/value cache. Changes the module: logits and losses
        are not to be asked for afterwards.
        """
        from ml_train.generation.cache import RememberingModel

        return RememberingModel(
            self.module, vocab_size=self.model_config.vocab_size, device=self.device
        )

    def losses(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy [batch, sequence] of each label, nats."""
        return self._forward(tokens, labels=labels).float()

    def _forward(self, tokens: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
        tokens = tokens.to(self.device)
        labels = {name: value.to(self.device) for name, value in more.items()}
        positions = torch.arange(tokens.shape[1], device=self.device).expand_as(tokens)
        with torch.inference_mode():
            found: torch.Tensor = self.module(tokens, positions, None, **labels)
        return found


@contextmanager
def open_model(load: str, *, device: str = "auto", bf16: bool = False) -> Iterator[OpenModel]:
    """The newest whole checkpoint of a directory, or one iter_* folder. Raises CheckpointError."""
    from ml_models.megatron_core.check import check_unknown_line
    from ml_models.platforms import get_platform

    platform = get_platform(device)
    platform.set_device(0)
    platform.apply()
    check_unknown_line("ml_models", "ml_train")
    from megatron.core import parallel_state  # adapted by the platform first

    store = torch._C._distributed_c10d.HashStore()
    dist.init_process_group(platform.backend, store=store, rank=0, world_size=1)
    try:
        folder = find.choose(
            CheckpointSection(load=load), group=dist.new_group(backend="gloo"), say=terminal.notice
        )
        assert folder is not None  # None is only for a --load that is --save as well
        model = _model_config(folder)
        _import_modules(model)
        with platform.context():
            parallel_state.initialize_model_parallel(
                create_gloo_process_groups=platform.needs_gloo_groups
            )
            module = _load(folder, model, platform, bf16)
            yield OpenModel(
                module=module, model_config=model, device=platform.device, folder=folder
            )
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _import_modules(model: "ModelConfig") -> None:
    """megatron-core decorates functions with torch.compile as its modules are imported, which
    fails once a platform's context is entered.
    """
    import ml_models.layers.model  # noqa: F401
    from ml_models import registry

    registry.architecture(model).spec()


def _load(folder: Path, model: "ModelConfig", platform: Any, bf16: bool) -> torch.nn.Module:
    from ml_models.build import build_model, make_transformer_config, pad_vocab_size

    transformer = make_transformer_config(
        model,
        device=platform.device,
        bf16=bf16,
        params_dtype=torch.bfloat16 if bf16 else torch.float32,
        perform_initialization=False,
    )
    module: torch.nn.Module = build_model(
        model,
        transformer,
        padded_vocab_size=pad_vocab_size(model.vocab_size, 128, 1),
        pre_process=True,
        post_process=True,
    )
    module.to(platform.device).eval()
    view = SimpleNamespace(
        model_chunks=[module],
        optimizer=None,
        opt_param_scheduler=None,
        model_config=model,
        transformer_config=transformer,
    )
    chosen = CheckpointSection(
        load=str(folder), no_load_optim=True, no_load_rng=True, no_verify_checksums=True
    )
    CheckpointManager(chosen, platform=platform, say=lambda text: None).load(view)
    return module


def _model_config(folder: Path) -> "ModelConfig":
    from ml_models import registry
    from ml_models.errors import MlModelsError

    try:
        values = json.loads((folder / "model_config.json").read_text(encoding="utf-8"))
        return registry.from_dict(values)
    except (OSError, ValueError, MlModelsError) as error:
        raise CheckpointError(f"{folder}/model_config.json cannot be used: {error}") from error
