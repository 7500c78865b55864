"""The job at toy width on real processes: killed, resumed, and held to a run without a break.

    killed     step 1 ... c, save, c+1 ... k, SIGKILL
    resumed    the same command: load step c, c+1 ... c+3
    unbroken   step 1 ... c+3

The losses, auxiliary losses and gradient norms of the steps after c have to be equal to the bit.
"""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ml_train.checkpoint.directory import store
from ml_train.config.run import RunConfig
from ml_train.config.sections.data import DataSection
from ml_train.config.sections.tokenizer import TokenizerSection
from ml_train.diagnosis.runs import FailedRunError, StartRun, start, words_of
from ml_train.diagnosis.step_numbers import read_step_numbers
from ml_train.errors import MlTrainError
from ml_train.planning.legality import words
from ml_train.rehearsal.finding import Finding, sound, wrong
from ml_train.rehearsal.job import Job
from ml_train.rehearsal.toy_config import ToyJob, toy_job
from ml_train.rehearsal.toy_processes import run_and_kill

SUBJECT = "toy run"
SAVE_EVERY, LOST, MORE = 2, 1, 3
"""Steps between two checkpoints, that the kill takes away at least, and that are compared."""

_LARGEST_INDEX_BYTES = 200 << 20
"""Of an .idx whose documents a toy run still shuffles in a moment."""


@dataclass(frozen=True, kw_only=True)
class ToyRun:
    """Trains the job at toy width, in a temporary folder."""

    most_processes: int | None = None
    """None for two for each core, and 8 at most: ranks at toy width wait more than they compute."""
    start_run: StartRun = start

    def __call__(self, job: Job, *, with_data: bool) -> Iterator[Finding]:
        """with_data: whether the job's data is sound; without it the tokens are made up."""
        config, layout = job.loaded.config, job.layout
        assert layout is not None  # rehearse.py has seen to that
        if not with_data or not _is_quick(config):
            config = _without_data(config)
        most = self.most_processes or min(8, 2 * (os.cpu_count() or 1))
        # Not by a context manager of tempfile alone: processes that are being killed may still
        # write into the folder while it is removed.
        folder = Path(tempfile.mkdtemp(prefix="ml-train-rehearse-"))
        try:
            toy = toy_job(config, job.loaded.model, layout, most_processes=most)
            name = f"{words(toy.layout)} on {toy.layout.world} processes"
            job.progress(f"toy run: {name}")
            yield self._train(job, toy, name, folder)
        except (MlTrainError, OSError) as error:
            reason = error.reason if isinstance(error, FailedRunError) else error
            text = f"The job at toy width failed: {reason}"
            yield wrong(SUBJECT, text, fix="Run it alone: ml-train verify-resume takes its flags.")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _train(self, job: Job, toy: ToyJob, name: str, folder: Path) -> Finding:
        save, world = folder / "killed", toy.layout.world
        data = dataclasses.replace(toy.config.data, data_cache_path=str(folder / "index_cache"))
        config = toy.config if data.mock_data else dataclasses.replace(toy.config, data=data)
        run_words = [*words_of(config), "--save-interval", str(SAVE_EVERY)]
        own_words = [*run_words, "--save", str(save), "--load", str(save)]
        job.progress("toy run: training until it is killed")
        run_and_kill(
            own_words, world, folder / "killed.log", until=lambda: _lost_steps(save) >= LOST
        )
        begun = store.records(save)[0].iteration
        reached = max(_losses(save))
        last = begun + MORE
        job.progress(f"toy run: killed after step {reached}, resuming from step {begun}")
        stop = ["--exit-interval", str(last)]
        self.start_run([*own_words, *stop], world, folder / "resumed.log")
        job.progress(f"toy run: the same {last} steps without a break")
        unbroken = folder / "unbroken"
        self.start_run([*run_words, *stop, "--save", str(unbroken)], world, folder / "unbroken.log")
        resumed, expected = _losses(save), _losses(unbroken)
        steps = range(begun + 1, last + 1)
        differing = [step for step in steps if resumed.get(step) != expected.get(step)]
        if differing or not all(step in expected for step in steps):
            text = (
                f"{name}: after the kill the run went on from step {begun}, and step "
                f"{(differing or [last])[0]} differs from the run without a break."
            )
            return wrong(SUBJECT, text, fix="ml-train verify-resume tells what differs.")
        return sound(
            SUBJECT,
            f"{name}: killed after step {reached}, resumed from step {begun}; steps {begun + 1} to "
            f"{last} have the losses of the run without a break",
        )


def _lost_steps(save: Path) -> int:
    """Steps that the run has reported after its last whole checkpoint."""
    known = store.records(save)
    reported = _losses(save)
    return max(reported) - known[0].iteration if known and reported else 0


def _losses(save: Path) -> dict[int, object]:
    """Step -> its numbers, as far as the run has written them."""
    path = save / "metrics.jsonl"
    try:
        return dict(read_step_numbers(path))
    except (OSError, ValueError):
        return {}  # not there yet, or its last line is being written


def _is_quick(config: RunConfig) -> bool:
    """Whether the sample indexes of its data are built in a moment."""
    sizes = []
    for flag_words in config.data.blends.values():
        paths = [Path(f"{word}.idx") for word in flag_words]
        sizes += [path.stat().st_size for path in paths if path.is_file()]
    return sum(sizes) <= _LARGEST_INDEX_BYTES


def _without_data(config: RunConfig) -> RunConfig:
    return dataclasses.replace(config, data=DataSection(), tokenizer=TokenizerSection())
