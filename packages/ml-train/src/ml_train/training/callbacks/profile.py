"""torch.profiler over a few steps of some ranks: traces for chrome://tracing or Perfetto."""

from pathlib import Path

import torch
from typing_extensions import override

from ml_train.training.callbacks.base import Callback, TrainerView
from ml_train.training.metrics import StepMetrics


class Profiler(Callback):
    """Records steps start..end-1 and writes DIRECTORY/rank00000_steps10-11.json."""

    def __init__(self, *, directory: Path, start: int, end: int, ranks: tuple[int, ...]):
        self._directory, self._start, self._end, self._ranks = directory, start, end, ranks
        self._profiler: torch.profiler.profile | None = None

    @override
    def on_step_start(self, trainer: TrainerView) -> None:
        """Begin before the first step of the window."""
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        if self._profiler is None and rank in self._ranks and trainer.iteration + 1 == self._start:
            self._directory.mkdir(parents=True, exist_ok=True)
            name = f"rank{rank:05}_steps{self._start}-{self._end - 1}.json"
            self._path = self._directory / name
            self._profiler = torch.profiler.profile(record_shapes=True)
            self._profiler.start()

    @override
    def on_step_end(self, trainer: TrainerView, metrics: StepMetrics) -> None:
        """End after the last step of the window."""
        if metrics.iteration >= self._end - 1:
            self._finish()

    @override
    def on_train_end(self, trainer: TrainerView) -> None:
        """End where the run is shorter than the window."""
        self._finish()

    def _finish(self) -> None:
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler.export_chrome_trace(str(self._path))
            self._profiler = None
