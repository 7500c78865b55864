"""Where checkpoints go, where a run starts from, and which ones are kept."""

from dataclasses import dataclass
from typing import Annotated

from ml_train.config.sections.rules import COUNT, Section


@dataclass(frozen=True, kw_only=True)
class CheckpointSection(Section):
    """Saving and loading."""

    save: str | None = None
    """Directory that checkpoints are written to. Unset: none are written."""

    load: str | None = None
    """Directory to go on from: its last written whole checkpoint, or one iter_* directory. Where it
    is not --save, it is where a new run begins; started again, that run goes on with its own."""

    pretrained_checkpoint: str | None = None
    """Checkpoint whose weights a new run begins with, optimizer and step count anew. It applies
    only while --save (or --load) holds no checkpoint, so the same command goes on."""

    save_interval: Annotated[int | None, COUNT] = None
    """Steps between two checkpoints. Unset: only at the end of the run."""

    async_save: bool = True
    """Write in the background: training waits only while the state is copied to host memory."""

    keep_last: Annotated[int | None, COUNT] = None
    """Keep this many of the newest checkpoints and delete older ones. Unset: keep all."""

    keep_every: Annotated[int | None, COUNT] = None
    """Never delete a checkpoint whose step is divisible by this."""

    no_save_optim: bool = False
    """Write the model alone: smaller, but a resume starts Adam anew."""

    no_load_optim: bool = False
    """Begin with the model alone: optimizer, schedule and step count start anew. A run that goes on
    in --save loads all that its checkpoints hold."""

    no_load_rng: bool = False
    """Begin with the random states of --seed instead of the checkpoint's."""

    no_verify_checksums: bool = False
    """Trust sizes and the marker when loading, without reading every file for its checksum."""

    signal_limit_seconds: Annotated[int, COUNT] = 120
    """After SIGTERM or SIGUSR1, leave without the checkpoint once this much time has passed."""
