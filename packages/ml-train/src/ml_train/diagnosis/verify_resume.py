"""Is a resumed run the same run? Two runs of the user's recipe, compared to the bit.

    uninterrupted   step 1 ... N, save, N+1 ... 2N, save
    resumed                          load, N+1 ... 2N, save

Both are started as a user would start them, by torchrun with `ml-train pretrain`, so that nothing
survives from one to the other but the checkpoint. Compared are the two last checkpoints (every
parameter, optimizer moment, random state and counter of every rank) and the losses of the steps
that both took. Costs 3N steps and three checkpoints.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ml_train.checkpoint.compare import Comparison, compare
from ml_train.checkpoint.store import folder_of
from ml_train.config.run import RunConfig
from ml_train.diagnosis.runs import Start, numbers, on_some_data, start, words_of
from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    compared: int
    differing: int
    largest: float
    """Largest absolute difference of an element."""
    note: str = ""


def check(config: RunConfig) -> None:
    """Raises ConfigError for a recipe that cannot be verified as it is."""
    for name in ("no_save_optim", "no_load_optim", "no_load_rng"):
        if getattr(config.checkpoint, name):
            raise ConfigError(
                f"verify-resume compares whole runs: drop --{name.replace('_', '-')}."
            )
    if config.checkpoint.load is not None:
        raise ConfigError("verify-resume starts from the seed: drop --load.")


def verify_resume(
    config: RunConfig, *, steps: int, num_processes: int, folder: Path, start: Start = start
) -> list[Row]:
    """Both runs and the comparison. Raises MlTrainError where a run fails."""
    check(config)
    config = on_some_data(config)
    words = [*words_of(config), "--train-iters", str(2 * steps)]
    one, two = folder / "uninterrupted", folder / "resumed"
    for name, place, more in (
        ("uninterrupted", one, ["--save-interval", str(steps)]),
        ("resumed", two, ["--load", str(folder_of(one, steps))]),
    ):
        print(f"{name} run: {num_processes} processes, {2 * steps} steps", flush=True)
        run_words = [*words, "--save", str(place), "--metrics-file", str(folder / f"{name}.jsonl")]
        start([*run_words, *more], num_processes, folder / f"{name}.log")
    rows = _grouped(compare(folder_of(one, 2 * steps), folder_of(two, 2 * steps)))
    return [*rows, _losses(folder / "uninterrupted.jsonl", folder / "resumed.jsonl", steps)]


def table(rows: Iterable[Row]) -> str:
    """For a terminal."""
    lines = [f"{'what':<28}{'compared':>12}{'differing':>12}{'largest difference':>22}"]
    for row in rows:
        line = f"{row.what:<28}{row.compared:>12}{row.differing:>12}{row.largest:>22.3g}"
        lines.append(line + (f"  {row.note}" if row.note else ""))
    return "\n".join(lines)


def _grouped(comparisons: Iterable[Comparison]) -> list[Row]:
    groups = {
        "optimizer.state.param.": "main parameters",
        "optimizer.state.exp_avg.": "first moments",
        "optimizer.state.exp_avg_sq.": "second moments",
    }
    found: dict[str, list[Comparison]] = {}
    for each in comparisons:
        name = next((n for prefix, n in groups.items() if each.key.startswith(prefix)), None)
        if name is None:
            name = each.key if each.key in ("run state", "random states") else "parameters"
        found.setdefault(name, []).append(each)
    return [
        Row(
            what=f"{name} ({len(members)})" if members[0].elements else name,
            compared=sum(max(each.elements, 1) for each in members),
            differing=sum(max(each.differing, 1) for each in members if not each.equal),
            largest=max(each.max_difference for each in members),
            note=next((f"{e.key}: {e.note}".rstrip(": ") for e in members if not e.equal), ""),
        )
        for name, members in found.items()
    ]


def _losses(first: Path, second: Path, steps: int) -> Row:
    """Loss, auxiliary loss and gradient norm of the steps that both runs took."""
    ours, theirs = numbers(first), numbers(second)
    shared = range(steps + 1, 2 * steps + 1)
    pairs = [(ours.get(number), theirs.get(number)) for number in shared]
    differing = [number for number, (a, b) in zip(shared, pairs, strict=True) if a != b or not a]
    largest = max(
        (abs(x - y) for a, b in pairs if a and b for x, y in zip(a, b, strict=True)), default=0.0
    )
    note = f"first at step {differing[0]}" if differing else ""
    return Row(
        what=f"loss, aux, norm ({steps} steps)",
        compared=3 * steps,
        differing=len(differing),
        largest=largest,
        note=note,
    )
