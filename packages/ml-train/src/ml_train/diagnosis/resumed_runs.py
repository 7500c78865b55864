"""An uninterrupted run and a resumed run of the same recipe, compared to the bit.

    uninterrupted   step 1 ... N, save, N+1 ... 2N, save
    resumed                          load, N+1 ... 2N, save

Both are started as a user would start them, by torchrun with `ml-train pretrain`, so that only the
checkpoint passes from the first to the second. Compared are their last checkpoints (every
parameter, optimizer moment, random state and counter of every rank) and the losses of the steps
that both took. Costs 3N steps and three checkpoints.

verify-resume does this under the running Python, verify-upgrade under two other environments.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ml_train import tables
from ml_train.checkpoint.compare import Comparison, compare
from ml_train.checkpoint.directory.store import folder_of
from ml_train.config.run import RunConfig
from ml_train.diagnosis.runs import StartRun, on_some_data, words_of
from ml_train.diagnosis.step_numbers import read_step_numbers, relative_difference
from ml_train.errors import ConfigError

_GROUPS = {
    "optimizer.state.param.": "main parameters",
    "optimizer.state.exp_avg.": "first moments",
    "optimizer.state.exp_avg_sq.": "second moments",
}
"""Prefix of a tensor's key -> the row that it is counted in; other tensors are parameters."""
DOCUMENTS = ("run state", "random states")
"""Keys of the comparisons that are of JSON documents, not of tensors."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table: a kind of tensors, a document, or the losses."""

    what: str
    compared: int
    differing: int
    largest: float
    """Largest absolute difference of an element."""
    relative: float = 0.0
    """Largest difference of a tensor in L2 norm, or of a number, relative to the first run's."""
    note: str = ""


def check(config: RunConfig, command: str) -> None:
    """Raises ConfigError for a recipe that `command` cannot verify as it is."""
    for name in ("no_save_optim", "no_load_optim", "no_load_rng"):
        if getattr(config.checkpoint, name):
            raise ConfigError(f"{command} compares whole runs: drop --{name.replace('_', '-')}.")
    if config.checkpoint.load is not None:
        raise ConfigError(f"{command} starts from the seed: drop --load.")


def compare_resumed(
    config: RunConfig,
    *,
    steps: int,
    num_processes: int,
    folder: Path,
    runs: Mapping[str, StartRun],
    progress: Callable[[str], None],
) -> tuple[list[Comparison], Row]:
    """An uninterrupted run, and a run that goes on from its checkpoint after `steps` steps.

    runs: the name of each run, the uninterrupted one first, and what starts it. Returns every
    tensor and document of the last checkpoints compared, and the numbers of the steps that both
    took. Raises MlTrainError where a run fails.
    """
    training = dataclasses.replace(config.training, train_iters=2 * steps)
    words = words_of(on_some_data(dataclasses.replace(config, training=training)))
    uninterrupted, resumed = runs
    own_words = {
        uninterrupted: ["--save-interval", str(steps)],
        resumed: ["--load", str(folder_of(folder / uninterrupted, steps))],
    }
    for name, start_run in runs.items():
        progress(f"{name} run: {num_processes} processes, {2 * steps} steps")
        run_words = [*words, "--save", str(folder / name), *own_words[name]]
        run_words += ["--metrics-file", str(folder / f"{name}.jsonl")]
        start_run(run_words, num_processes, folder / f"{name}.log")
    comparisons = compare(*(folder_of(folder / name, 2 * steps) for name in runs))
    losses = _losses(folder / f"{uninterrupted}.jsonl", folder / f"{resumed}.jsonl", steps)
    return list(comparisons), losses


def table(rows: Iterable[Row]) -> str:
    """For a terminal."""
    columns = [
        tables.Column(heading="what", is_text=True),
        tables.Column(heading="compared"),
        tables.Column(heading="differing"),
        tables.Column(heading="largest difference"),
        tables.Column(heading="", is_text=True),
    ]
    return tables.plain_text(
        columns,
        (
            [row.what, str(row.compared), str(row.differing), f"{row.largest:.3g}", row.note]
            for row in rows
        ),
    )


def grouped(comparisons: Iterable[Comparison]) -> list[Row]:
    """A row for the parameters, for each kind of optimizer state, and for each document."""
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault(_group_of(comparison.key), []).append(comparison)
    return [
        Row(
            what=f"{name} ({len(members)})" if members[0].elements else name,
            compared=sum(max(member.elements, 1) for member in members),
            differing=sum(max(member.differing, 1) for member in members if not member.equal),
            largest=max(member.max_difference for member in members),
            relative=max(member.relative_l2 for member in members),
            note=_first_note(members),
        )
        for name, members in groups.items()
    ]


def _first_note(members: Iterable[Comparison]) -> str:
    """What differs first; empty where nothing does."""
    differing = (member for member in members if not member.equal)
    return next((f"{member.key}: {member.note}".rstrip(": ") for member in differing), "")


def _group_of(key: str) -> str:
    if key in DOCUMENTS:
        return key
    return next((name for prefix, name in _GROUPS.items() if key.startswith(prefix)), "parameters")


def _losses(first: Path, second: Path, steps: int) -> Row:
    """Loss, auxiliary loss and gradient norm of the steps that both runs took."""
    first_numbers, second_numbers = read_step_numbers(first), read_step_numbers(second)
    differing = []
    largest = relative = 0.0
    for step in range(steps + 1, 2 * steps + 1):
        numbers, other_numbers = first_numbers.get(step), second_numbers.get(step)
        if numbers is None or other_numbers is None:
            differing.append(step)
            continue
        if numbers != other_numbers:
            differing.append(step)
        for value, other in zip(numbers, other_numbers, strict=True):
            largest = max(largest, abs(value - other))
            relative = max(relative, relative_difference(value, other))
    return Row(
        what=f"loss, aux, norm ({steps} steps)",
        compared=3 * steps,
        differing=len(differing),
        largest=largest,
        relative=relative,
        note=f"first at step {differing[0]}" if differing else "",
    )
