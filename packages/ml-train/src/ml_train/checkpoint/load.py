"""From a whole checkpoint to a model, an optimizer and a run that stand where it stood."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from ml_models.megatron_core import differences, lines
from ml_train.checkpoint import random_states, run_state
from ml_train.checkpoint.run_state import RunDocument, RunState
from ml_train.checkpoint.tensors import sharded_state, torch_dist
from ml_train.checkpoint.tensors.sharded_state import Shapes, TrainedModel
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.errors import CheckpointError
from ml_train.parallel.coordinates import coordinates, layout_sizes

if TYPE_CHECKING:
    from ml_models.config import ModelConfig
    from ml_models.platforms.base import Platform

# Facts of a ModelConfig that change no weight's meaning.
MAY_DIFFER = frozenset({"seq_length", "init_method_std"})


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How checkpoints are loaded in a process, whichever they are."""

    platform: "Platform | None"
    """For the random state of its device."""
    group: dist.ProcessGroup
    """gloo, all ranks."""
    say: Callable[[str], None]


def load(
    train_module: TrainedModel,
    folder: Path,
    config: CheckpointSection,
    loading: Loading,
    *,
    own: bool = False,
) -> RunState:
    """Load a checkpoint that CheckpointManager.start or choose has checked. Collective.

    own: the run goes on with a checkpoint of its own. --no-load-optim and --no-load-rng are about
    where a run begins, so they leave out nothing that it holds, and steps are counted on.
    """
    saved: RunDocument | None = _read(folder, "run_state.json")
    with_optimizer = _with_optimizer(train_module, saved, config, own=own)
    agree(fault_of_run(train_module, folder, config, own=own), loading.group, folder)
    sharded_state.load_model(train_module, folder)
    if with_optimizer:
        # fault_of_run() has refused a checkpoint that holds no optimizer.
        assert saved is not None and saved["optimizer"] is not None
        adam_step = saved["optimizer"]["adam_step"]
        sharded_state.load_optimizer(
            train_module, folder, torch_dist.read_metadata(folder), adam_step
        )
    elif train_module.optimizer is not None:
        train_module.optimizer.reload_model_params()
    if saved is None or not (with_optimizer or own):
        loading.say(f"model loaded from {folder}; optimizer, schedule and step count start anew")
        return RunState(iteration=0, consumed_samples=0)
    if train_module.opt_param_scheduler is not None and saved["schedule"] is not None:
        sharded_state.set_schedule(train_module.opt_param_scheduler, saved["schedule"]["num_steps"])
    note = "" if with_optimizer else "; Adam starts anew, the checkpoint holds no optimizer state"
    if own or not config.no_load_rng:
        note += _restore_random_state(folder, saved["layout"], loading.platform)
    now = RunState.of(saved["run"])
    loading.say(f"resuming from {folder} after step {now.iteration}{note}")
    return now


def fault_of_run(
    train_module: TrainedModel, folder: Path, config: CheckpointSection, *, own: bool
) -> str | None:
    """Why a checkpoint that is whole does not fit this rank of the run, or None."""
    saved: RunDocument | None = _read(folder, "run_state.json")
    with_optimizer = _with_optimizer(train_module, saved, config, own=own)
    return _fault(train_module, saved, torch_dist.read_metadata(folder), with_optimizer)


def _with_optimizer(
    train_module: TrainedModel,
    saved: RunDocument | None,
    config: CheckpointSection,
    *,
    own: bool,
) -> bool:
    """Whether the optimizer's state is loaded as well."""
    holds_optimizer = saved is not None and saved.get("optimizer") is not None
    if own and holds_optimizer and train_module.optimizer is not None:
        return True
    return train_module.optimizer is not None and not config.no_load_optim


def agree(fault: str | None, group: dist.ProcessGroup, folder: Path) -> None:
    """Raise the same CheckpointError on every rank if any rank has a fault. Collective."""
    everywhere: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, fault, group=group)
    first = next((text for text in everywhere if text), None)
    if first:
        raise CheckpointError(f"{folder} cannot be loaded: {first}.")


def _fault(
    train_module: TrainedModel,
    saved: RunDocument | None,
    available: Shapes,
    with_optimizer: bool,
) -> str | None:
    """Why this checkpoint does not fit this run, or None. On this rank alone."""
    if with_optimizer and (saved is None or saved.get("optimizer") is None):
        return "it holds a model without optimizer state; add --no-load-optim --no-load-rng"
    if saved is not None and saved.get("format", 0) > run_state.FORMAT_VERSION:
        return f"run_state.json has format {saved['format']}, newer than this ml-train reads"
    same_layout = not with_optimizer or saved is None or saved["layout"] == layout_sizes()
    if saved is not None and not same_layout and not differences.reshards_optimizer():
        return (
            f"the layout is {_text(layout_sizes())}, the checkpoint's is "
            f"{_text(saved['layout'])}, and on megatron-core {lines.installed_version()} "
            "optimizer state is loaded only in the layout that saved it; use megatron-core "
            f"{differences.first_release_of_optimizer_state()} or newer, or begin a new "
            "run with its weights by --pretrained-checkpoint"
        )
    state = sharded_state.model_state(train_module)
    return sharded_state.faults_of_keys(state, available)


def fault_of_model(folder: Path, model: "ModelConfig") -> str | None:
    """Why the checkpoint in `folder` is not a checkpoint of `model`, or None."""
    saved: Mapping[str, object] | None = _read(folder, "model_config.json")
    if saved is None:
        return "it has no model_config.json"
    wanted = model.to_dict()
    telling = ("architecture", "num_layers", "hidden_size")
    differing = sorted(
        (name for name in {*saved, *wanted} - MAY_DIFFER if saved.get(name) != wanted.get(name)),
        key=lambda name: (name not in telling, name),
    )
    if not differing:
        return None
    facts = [f"{name} is {saved.get(name)} there and {wanted.get(name)} here" for name in differing]
    return f"it is another model's: {', '.join(facts[:4])}"


def _restore_random_state(folder: Path, layout: dict[str, int], platform: "Platform | None") -> str:
    """Words for the message about the load; empty where the states are restored."""
    states: list[random_states.RandomState] | None = _read(folder, "random_states.json")
    rank = dist.get_rank()
    if layout != layout_sizes() or states is None or states[rank]["coordinates"] != coordinates():
        return "; saved under another layout, random states come from the seed"
    random_states.set_random_state(states[rank], platform)
    return ""


def _read(folder: Path, name: str) -> Any:  # JSON: the caller annotates what it expects
    path = folder / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _text(layout: dict[str, int]) -> str:
    return " ".join(f"{name.upper()}{size}" for name, size in layout.items())
