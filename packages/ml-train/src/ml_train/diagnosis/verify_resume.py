"""Is a resumed run the same run? Two runs of the user's recipe, compared to the bit.

    uninterrupted   step 1 ... N, save, N+1 ... 2N, save
    resumed                          load, N+1 ... 2N, save

Both are started as a user would start them, by torchrun with `ml-train pretrain`, so that nothing
survives from one to the other but the checkpoint. Compared are the two last checkpoints (every
parameter, optimizer moment, random state and counter of every rank) and the losses of the steps
that both took. Costs 3N steps and three checkpoints.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ml_train import terminal
from ml_train.checkpoint.compare import Comparison, compare
from ml_train.checkpoint.store import folder_of
from ml_train.config.run import RunConfig
from ml_train.diagnosis.runs import Start, numbers, on_some_data, relative, start, words_of
from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    compared: int
    differing: int
    largest: float
    """Largest absolute difference of an element."""
    relative: float = 0.0
    """Largest difference of a tensor in L2 norm, or of a number, relative to the first run's."""
    note: str = ""


def check(config: RunConfig, command: str = "verify-resume") -> None:
    """Raises ConfigError for a recipe that `command` cannot verify as it is."""
    for name in ("no_save_optim", "no_load_optim", "no_load_rng"):
        if getattr(config.checkpoint, name):
            raise ConfigError(f"{command} compares whole runs: drop --{name.replace('_', '-')}.")
    if config.checkpoint.load is not None:
        raise ConfigError(f"{command} starts from the seed: drop --load.")


def verify_resume(
    config: RunConfig, *, steps: int, num_processes: int, folder: Path, start: Start = start
) -> list[Row]:
    """Both runs and the comparison. Raises MlTrainError where a run fails."""
    check(config)
    runs = {"uninterrupted": start, "resumed": start}
    comparisons, losses = two_runs(
        config,
        steps=steps,
        num_processes=num_processes,
        folder=folder,
        runs=runs,
        progress=terminal.notice,
    )
    return [*grouped(comparisons), losses]


def two_runs(
    config: RunConfig,
    *,
    steps: int,
    num_processes: int,
    folder: Path,
    runs: Mapping[str, Start],
    progress: Callable[[str], None],
) -> tuple[list[Comparison], Row]:
    """An uninterrupted run, and one that goes on from its checkpoint in the middle.

    `runs`: the name of each, the uninterrupted one first, and what starts it. Returns every tensor
    and document of the last checkpoints compared, and the numbers of the steps that both took.
    Raises MlTrainError where a run fails.
    """
    training = dataclasses.replace(config.training, train_iters=2 * steps)
    words = words_of(on_some_data(dataclasses.replace(config, training=training)))
    uninterrupted, resumed = runs
    more = {
        uninterrupted: ["--save-interval", str(steps)],
        resumed: ["--load", str(folder_of(folder / uninterrupted, steps))],
    }
    for name, start_run in runs.items():
        progress(f"{name} run: {num_processes} processes, {2 * steps} steps")
        run_words = [*words, "--save", str(folder / name), *more[name]]
        run_words += ["--metrics-file", str(folder / f"{name}.jsonl")]
        start_run(run_words, num_processes, folder / f"{name}.log")
    comparisons = compare(*(folder_of(folder / name, 2 * steps) for name in runs))
    losses = _losses(folder / f"{uninterrupted}.jsonl", folder / f"{resumed}.jsonl", steps)
    return list(comparisons), losses


def table(rows: Iterable[Row]) -> str:
    """For a terminal."""
    lines = [f"{'what':<28}{'compared':>12}{'differing':>12}{'largest difference':>22}"]
    for row in rows:
        line = f"{row.what:<28}{row.compared:>12}{row.differing:>12}{row.largest:>22.3g}"
        lines.append(line + (f"  {row.note}" if row.note else ""))
    return "\n".join(lines)


def grouped(comparisons: Iterable[Comparison]) -> list[Row]:
    """One row for the parameters, for each kind of optimizer state, and for each document."""
    groups = {
        "optimizer.state.param.": "main parameters",
        "optimizer.state.exp_avg.": "first moments",
        "optimizer.state.exp_avg_sq.": "second moments",
    }
    rows: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        key = comparison.key
        name = next((n for prefix, n in groups.items() if key.startswith(prefix)), None)
        if name is None:
            name = key if key in ("run state", "random states") else "parameters"
        rows.setdefault(name, []).append(comparison)
    return [
        Row(
            what=f"{name} ({len(members)})" if members[0].elements else name,
            compared=sum(max(member.elements, 1) for member in members),
            differing=sum(max(member.differing, 1) for member in members if not member.equal),
            largest=max(member.max_difference for member in members),
            relative=max(member.relative_l2 for member in members),
            note=next((f"{m.key}: {m.note}".rstrip(": ") for m in members if not m.equal), ""),
        )
        for name, members in rows.items()
    ]


def _losses(first: Path, second: Path, steps: int) -> Row:
    """Loss, auxiliary loss and gradient norm of the steps that both runs took."""
    ours, theirs = numbers(first), numbers(second)
    shared = range(steps + 1, 2 * steps + 1)
    pairs = [(ours.get(number), theirs.get(number)) for number in shared]
    differing = [number for number, (a, b) in zip(shared, pairs, strict=True) if a != b or not a]
    both = [pair for a, b in pairs if a and b for pair in zip(a, b, strict=True)]
    note = f"first at step {differing[0]}" if differing else ""
    return Row(
        what=f"loss, aux, norm ({steps} steps)",
        compared=3 * steps,
        differing=len(differing),
        largest=max((abs(x - y) for x, y in both), default=0.0),
        relative=max((relative(x, y) for x, y in both), default=0.0),
        note=note,
    )
