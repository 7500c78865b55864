"""From a whole checkpoint to a model, an optimizer and a run that stand where it stood."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from ml_models.megatron_core import differences, lines
from ml_train.checkpoint import run_state, state, torch_dist
from ml_train.checkpoint.run_state import RunState
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.errors import CheckpointError

if TYPE_CHECKING:
    from ml_models.config import ModelConfig

# Facts of a ModelConfig that change no weight's meaning.
MAY_DIFFER = frozenset({"seq_length", "init_method_std"})


def load(
    train_module: Any,
    folder: Path,
    config: CheckpointSection,
    *,
    own: bool = False,
    platform: Any,
    group: Any,
    say: Callable[[str], None],
) -> RunState:
    """Load a checkpoint that CheckpointManager.start or choose has checked. Collective.

    own: the run goes on with a checkpoint of its own. --no-load-optim and --no-load-rng are about
    where a run begins, so they leave out nothing that it holds, and steps are counted on.
    """
    saved = _read(folder, "run_state.json")
    holds_optimizer = saved is not None and saved.get("optimizer") is not None
    with_optimizer = train_module.optimizer is not None and not config.no_load_optim
    if own and holds_optimizer and train_module.optimizer is not None:
        with_optimizer = True
    available = torch_dist.read_metadata(folder)
    agree(_fault(train_module, saved, available, with_optimizer), group, folder)
    state.load_model(train_module, folder, available)
    if with_optimizer:
        state.load_optimizer(train_module, folder, available, saved["optimizer"]["adam_step"])
    elif train_module.optimizer is not None:
        train_module.optimizer.reload_model_params()
    if not (with_optimizer or (own and saved is not None)):
        say(f"model loaded from {folder}; optimizer, schedule and step count start anew")
        return RunState(iteration=0, consumed_samples=0)
    if train_module.opt_param_scheduler is not None and saved["schedule"] is not None:
        state.set_schedule(train_module.opt_param_scheduler, saved["schedule"]["num_steps"])
    note = "" if with_optimizer else "; Adam starts anew, the checkpoint holds no optimizer state"
    if own or not config.no_load_rng:
        note += _restore_random_state(folder, saved["layout"], platform)
    now = RunState.of(saved["run"])
    say(f"resuming from {folder} after step {now.iteration}{note}")
    return now


def agree(fault: str | None, group: Any, folder: Path) -> None:
    """Raise the same CheckpointError on every rank if any rank found a fault. Collective."""
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, fault, group=group)
    first = next((text for text in everywhere if text), None)
    if first:
        raise CheckpointError(f"{folder} cannot be loaded: {first}.")


def _fault(
    train_module: Any,
    saved: Any,
    available: dict[str, tuple[int, ...]],
    with_optimizer: bool,
) -> str | None:
    """Why this checkpoint does not fit this run, or None. On this rank alone."""
    if with_optimizer and (saved is None or saved.get("optimizer") is None):
        return "it holds a model without optimizer state; add --no-load-optim --no-load-rng"
    if saved is not None and saved.get("format", 0) > run_state.FORMAT_VERSION:
        return f"run_state.json has format {saved['format']}, newer than this ml-train reads"
    same_layout = not with_optimizer or saved["layout"] == run_state.layout()
    if not same_layout and not differences.reshards_optimizer():
        return (
            f"the layout is {_text(run_state.layout())}, the checkpoint's is "
            f"{_text(saved['layout'])}, and on megatron-core {lines.installed_version()} "
            "optimizer state is loaded only in the layout that saved it; use megatron-core 0.16.1 "
            "or newer, or begin a new run with its weights by --pretrained-checkpoint"
        )
    return state.faults_of_keys(state.model_state(train_module), available)


def fault_of_model(folder: Path, model: "ModelConfig") -> str | None:
    """Why the checkpoint in `folder` is not one of `model`, or None."""
    theirs, ours = _read(folder, "model_config.json"), model.to_dict()
    if theirs is None:
        return "it has no model_config.json"
    telling = ("architecture", "num_layers", "hidden_size")
    differing = sorted(
        (name for name in {*theirs, *ours} - MAY_DIFFER if theirs.get(name) != ours.get(name)),
        key=lambda name: (name not in telling, name),
    )
    if not differing:
        return None
    facts = ", ".join(f"{n} is {theirs.get(n)} there and {ours.get(n)} here" for n in differing[:4])
    return f"it is another model's: {facts}"


def _restore_random_state(folder: Path, layout: dict[str, int], platform: Any) -> str:
    states = _read(folder, "random_states.json")
    rank = dist.get_rank()
    if (
        layout != run_state.layout()
        or states is None
        or states[rank]["coordinates"] != run_state.coordinates()
    ):
        return "; saved under another layout, random states come from the seed"
    run_state.set_random_state(states[rank], platform)
    return ""


def _read(folder: Path, name: str) -> Any:
    path = folder / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _text(layout: dict[str, int]) -> str:
    return " ".join(f"{name.upper()}{size}" for name, size in layout.items())
