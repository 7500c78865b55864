"""Where a run will go on, before any process group: for commands that look ahead of a start."""

import json
from typing import TYPE_CHECKING

from ml_train.checkpoint.ownership.start import decide
from ml_train.checkpoint.run_state import RunState
from ml_train.errors import CheckpointError

if TYPE_CHECKING:
    from ml_train.config.load import LoadedConfig


def saved_state(loaded: "LoadedConfig") -> RunState | None:
    """What the checkpoint says that the run will go on from; None where it starts fresh.

    Raises CheckpointError.
    """
    config = loaded.config.checkpoint
    start = decide(config, loaded.values())
    counts_anew = start.weights_only or (config.no_load_optim and not start.own)
    if not start.candidates or counts_anew:
        return None
    path = start.candidates[0] / "run_state.json"
    try:
        return RunState.of(json.loads(path.read_text(encoding="utf-8"))["run"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
