"""ml-train verify-resume: show that a resumed run equals an uninterrupted one, to the bit."""

import argparse

from ml_train import terminal
from ml_train.config.flags import add_config_flags, given_flags
from ml_train.config.load import load_config
from ml_train.config.sections.rules import COUNT, check_number
from ml_train.diagnosis import runs
from ml_train.diagnosis.work_folder import work_folder

DESCRIPTION = (
    "Train a recipe twice for a few steps, once without a break and once from a checkpoint in the "
    "middle, and compare every bit of both. Tokens are made up where no data is given. Starts its "
    "own processes: no torchrun needed."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run's own flags, and how much to try."""
    add_config_flags(parser)
    parser.add_argument(
        "--verify-steps", type=int, default=3, help="Steps before and steps after the checkpoint."
    )
    parser.add_argument(
        "--num-processes", type=int, default=None, help="Default: the fewest for the layout."
    )
    parser.add_argument(
        "--work-dir",
        default=None,
        help="Keep logs and checkpoints here. Default: thrown away, but for a run that fails.",
    )


def run(args: argparse.Namespace) -> int:
    """Print the table; 1 if anything differs."""
    check_number("--verify-steps", args.verify_steps, COUNT)
    check_number("--num-processes", args.num_processes, COUNT)
    loaded = load_config(given_flags(args))

    # Imported once the flags are checked: these import torch, which takes seconds.
    from ml_train.diagnosis import resumed_runs, verify_resume

    with work_folder(args.work_dir, "verify-resume-") as folder:
        rows = verify_resume.verify_resume(
            loaded.config,
            steps=args.verify_steps,
            num_processes=args.num_processes or runs.smallest_world(loaded.config),
            folder=folder,
        )
    terminal.result(resumed_runs.table(rows))
    differing = [row.what for row in rows if row.differing]
    if differing:
        terminal.result(f"DIFFERENT: {', '.join(differing)}")
        return 1
    terminal.result("the resumed run equals the uninterrupted one to the bit")
    return 0
