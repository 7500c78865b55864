"""From which checkpoint a start goes on, and as which run: the rule, from folder contents alone.

docs/checkpoints.md has it as a table. In short: --save belongs to the run that wrote to it last.
--load SAVE goes on with that run. What else --load or --pretrained-checkpoint names is where a run
begins; the same command again goes on with what it has saved since. A start that would be another
run in a used --save is refused, except for a branch from one of its checkpoints.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ml_train.checkpoint.directory import integrity, store
from ml_train.checkpoint.directory.identity import Record, RunIdentity, differing, plain
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.errors import CheckpointError

# Settings that leave a run's steps what they are, but for rounding.
_WITHOUT_EFFECT_ON_STEPS = frozenset(
    {"train_iters", "eval_interval", "eval_iters", "exit_interval", "exit_duration_in_mins"}
    | {"exit_signal_handler", "micro_batch_size", "device", "deterministic_mode"}
    | {"recompute_granularity", "recompute_method", "recompute_num_layers"}
)
_SECTIONS_OF_STEPS = ("model", "optimizer", "data", "training")


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run starts with."""

    identity: RunIdentity
    candidates: tuple[Path, ...] = ()
    """Checkpoints, the wanted one first, the others for the case that it is damaged."""
    named: str = ""
    """The flag and its value that the candidates come from; empty for a fresh start."""
    own: bool = False
    """The run's own checkpoints: loaded with all that they hold, step count included."""
    weights_only: bool = False
    """--pretrained-checkpoint: everything but the weights starts anew."""
    note: str = ""
    """What the user should know, one sentence or more."""


def decide(config: CheckpointSection, settings: Mapping[str, object]) -> Start:
    """Decide from the directories' contents. For one rank to call. Raises CheckpointError.

    settings: section.name -> value of this start.
    """
    values = plain(settings)
    save = Path(config.save) if config.save is not None else None
    known = store.records(save) if save is not None else []
    if save is not None and known:
        return _in_used(save, known, config, values)
    # --save is empty from here on. --load names where a run begins, unless it is --save itself.
    # Another program's weights there are refused later, with the way to convert them.
    foreign = config.load is not None and integrity.foreign_weights(Path(config.load)) is not None
    if config.load is not None and (foreign or not _same(config.load, config.save)):
        start = _from("--load", config.load, values)
        if start is not None:
            return start
        if config.pretrained_checkpoint is None:
            raise CheckpointError(nothing_in(Path(config.load)))
    if config.pretrained_checkpoint is not None:
        start = _from("--pretrained-checkpoint", config.pretrained_checkpoint, values)
        if start is None:
            path = config.pretrained_checkpoint
            raise CheckpointError(
                f"--pretrained-checkpoint {path} "
                + ("holds no checkpoint." if Path(path).is_dir() else "does not exist.")
            )
        return start
    partial = store.partial_saves(save) if save is not None and config.load is not None else []
    note = ""
    if config.load is not None:
        ignored = f" ({len(partial)} unfinished saves ignored)" if partial else ""
        note = f"--load {config.load} holds no checkpoint yet{ignored}: starting from step 0"
    return Start(identity=RunIdentity.new(settings=values), note=note)


def _in_used(
    save: Path, known: list[Record], config: CheckpointSection, settings: dict[str, object]
) -> Start:
    """The start where --save holds checkpoints: it belongs to the run that wrote the last."""
    last = known[0]
    load, weights = config.load, config.pretrained_checkpoint
    # 1. The user asks for the folder's run.
    if load is not None and (_same(load, config.save) or _same(load, str(last.path))):
        note = _later_unnamed(known)
        if weights is not None and not _began(last, weights):
            note += f"--pretrained-checkpoint {weights} is not used: {_has_run(save, last)}. "
        return _going_on(known, f"--load {load}", settings, note)
    # 2. The same command again, after the run has saved: it goes on instead of beginning anew.
    given = load if load is not None else weights
    flag = "--load" if load is not None else "--pretrained-checkpoint"
    if given is not None and _began(last, given):
        if load is not None and _inside(load, save):
            _refuse_another_branch(load, save, last, settings)
        note = f"{_has_run(save, last)} that began from {flag} {given} and goes on. "
        return _going_on(known, f"--save {save}", settings, note)
    # 3. An earlier checkpoint of the folder: a new run branches off there.
    if load is not None and _inside(load, save):
        return _branch(load, save, last, settings)
    # 4. A run from scratch, started again with the same settings.
    changed = differing(last.identity.settings, settings) if last.identity else []
    if given is None and last.identity is not None and not changed:
        note = f"{_has_run(save, last)}, which this same command began: it goes on. "
        return _going_on(known, f"--save {save}", settings, note)
    raise CheckpointError(_another_run(save, last, f"{flag} {given}" if given else "", changed))


def _going_on(known: list[Record], named: str, settings: dict[str, object], note: str) -> Start:
    identity = known[0].identity
    paths = tuple(record.path for record in store.lineage(known, identity))
    if identity is None:
        # Version 1.0.0 gave no names. From here on the run has one.
        identity = RunIdentity.new(parent=known[0], settings=settings)
    return Start(
        identity=identity.going_on(settings),
        candidates=paths,
        named=named,
        own=True,
        note=note.strip(),
    )


def _from(flag: str, given: str, settings: dict[str, object]) -> Start | None:
    """A new run that begins with the checkpoint that `given` names; None where it holds none."""
    path = Path(given)
    paths = [path] if is_checkpoint(path) else store.checkpoints(path)
    if not paths:
        return None
    first = store.record_of(paths[0])
    return Start(
        identity=RunIdentity.new(origin=str(path.resolve()), parent=first, settings=settings),
        candidates=tuple(paths),
        named=f"{flag} {given}",
        weights_only=flag == "--pretrained-checkpoint",
        note=f"{flag} {given} is where a new run begins",
    )


def _branch(load: str, save: Path, last: Record, settings: dict[str, object]) -> Start:
    start = _from("--load", load, settings)
    if start is None:
        raise CheckpointError(nothing_in(Path(load)))
    note = (
        f"--load {load} is not the last checkpoint in --save {save} (that is {last.path.name}): a "
        "new run branches off there. The other checkpoints stay, and --load SAVE goes on with the "
        "new run once it has saved"
    )
    return Start(identity=start.identity, candidates=start.candidates, named=start.named, note=note)


def _refuse_another_branch(
    load: str, save: Path, last: Record, settings: dict[str, object]
) -> None:
    assert last.identity is not None
    changed = [
        name
        for name in differing(last.identity.settings, settings)
        if name.partition(".")[0] in _SECTIONS_OF_STEPS
        and name.partition(".")[2] not in _WITHOUT_EFFECT_ON_STEPS
    ]
    if changed:
        raise CheckpointError(
            f"--load {load} is where the run in --save {save} began, which has come to "
            f"{last.path.name} since, with other settings ({_named(changed)}). To go on with it, "
            f"give --load {save}. To begin there once more, choose another --save."
        )


def _another_run(save: Path, last: Record, given: str, changed: list[str]) -> str:
    if given:
        what = f"{given} is not where it began"
    elif last.identity is None:
        what = "there is no --load"
    else:
        what = f"there is no --load, and other settings than it had ({_named(changed)})"
    return (
        f"{_has_run(save, last)}, and {what}: this would be another run among its checkpoints. "
        f"To go on with that run, give --load {save}. To start a new one, choose another --save "
        "or move the old one away."
    )


def _has_run(save: Path, last: Record) -> str:
    began = f", begun {last.identity.began}" if last.identity else ""
    return f"--save {save} holds the checkpoints of a run (last {last.path.name}{began})"


def _later_unnamed(known: list[Record]) -> str:
    """A note where checkpoints of version 1.0.0 may be newer than the last: they don't say when."""
    last = known[0]
    if last.identity is None or last.identity.parent_run is not None:
        return ""
    later = [r for r in known if r.identity is None and r.iteration > last.iteration]
    if not later:
        return ""
    return (
        f"{later[0].path.name} says of no run that it is its own; {last.path.name} was written "
        f"by the run that goes on (--load {later[0].path} takes the other). "
    )


def is_checkpoint(path: Path) -> bool:
    """Whether a path names a checkpoint and not a directory of checkpoints.

    Another program's weights count as a checkpoint: the check of it refuses them and tells how to
    convert them.
    """
    return (
        store.iteration_of(path) is not None
        or (path / "metadata.json").is_file()
        or integrity.foreign_weights(path) is not None
    )


def nothing_in(directory: Path) -> str:
    """The error for a directory without checkpoints."""
    what = "holds no checkpoint" if directory.is_dir() else "does not exist"
    return (
        f"--load {directory} {what}. Only a directory that is --save as well may be empty at first."
    )


def _same(first: str | None, second: str | None) -> bool:
    return first is not None and second is not None and _resolved(first) == _resolved(second)


def _began(last: Record, given: str) -> bool:
    return last.identity is not None and last.identity.origin == str(_resolved(given))


def _inside(path: str, save: Path) -> bool:
    return _resolved(path).parent == save.resolve()


def _resolved(path: str) -> Path:
    return Path(path).resolve()


def _named(settings: list[str]) -> str:
    flags = ["--" + name.partition(".")[2].replace("_", "-") for name in settings]
    return ", ".join(flags[:4]) + (", ..." if len(flags) > 4 else "")
