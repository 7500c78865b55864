"""Is a resumed run the same run, under the Python that runs this? ml_train.diagnosis.resumed_runs
has what is run and compared."""

from pathlib import Path

from ml_train import terminal
from ml_train.config.run import RunConfig
from ml_train.diagnosis.resumed_runs import Row, check, compare_resumed, grouped
from ml_train.diagnosis.runs import StartRun, start


def verify_resume(
    config: RunConfig,
    *,
    steps: int,
    num_processes: int,
    folder: Path,
    start_run: StartRun = start,
) -> list[Row]:
    """Both runs under this Python, and the comparison. Raises MlTrainError where a run fails."""
    check(config, "verify-resume")
    comparisons, losses = compare_resumed(
        config,
        steps=steps,
        num_processes=num_processes,
        folder=folder,
        runs={"uninterrupted": start_run, "resumed": start_run},
        progress=terminal.notice,
    )
    return [*grouped(comparisons), losses]
