"""ml-train verify-upgrade: train under one environment, resume under another, compare."""

import argparse
import json

import ml_train
from ml_train import terminal
from ml_train.config.flags import add_config_flags, given_flags
from ml_train.config.load import load_config
from ml_train.config.sections.rules import COUNT, Range, check_number
from ml_train.diagnosis import environments, runs
from ml_train.diagnosis.work_folder import work_folder

DESCRIPTION = (
    "Show that a run goes on after an upgrade: train a recipe for a few steps under one "
    "environment's Python, resume it from the checkpoint in the middle under another's, and "
    "compare every tensor and loss with those of the run that was not interrupted. Tokens are made "
    "up where no data is given. Starts its own processes: no torchrun needed. Run it from the "
    "newer of the two environments, which reads what both wrote."
)
TOLERANCE = 1e-5
"""Relative: of each tensor in L2 norm, and of loss, auxiliary loss and gradient norm."""
EXAMPLE = (
    "example: ml-train verify-upgrade --recipe grok1-tiny --from ~/envs/core-0.16 "
    "--to ~/envs/core-0.19"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run's own flags, the two environments, and how much to try."""
    parser.epilog = EXAMPLE
    what = "an environment's folder (from python -m venv or conda) or a Python"
    parser.add_argument(
        "--from", dest="first", required=True, metavar="ENV", help=f"Trains: {what}."
    )
    parser.add_argument(
        "--to", dest="second", required=True, metavar="ENV", help=f"Resumes: {what}."
    )
    parser.add_argument(
        "--verify-steps", type=int, default=3, help="Steps before and steps after the checkpoint."
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="Largest relative difference of a tensor (L2 norm) and of a loss that is still "
        f"rounding; 0 asks for equal bits (default: {TOLERANCE:g}).",
    )
    parser.add_argument(
        "--num-processes", type=int, default=None, help="Default: the fewest for the layout."
    )
    parser.add_argument(
        "--work-dir",
        default=None,
        help="Keep logs and checkpoints here. Default: thrown away, but for a run that fails.",
    )
    parser.add_argument(
        "--ml-train-may-differ",
        action="store_true",
        help="Go on where the environments have other versions of ml-train than this one.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    add_config_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Print what differs; 1 if anything differs by more than the tolerance."""
    check_number("--verify-steps", args.verify_steps, COUNT)
    check_number("--num-processes", args.num_processes, COUNT)
    check_number("--tolerance", args.tolerance, Range(at_least=0, below=1))
    loaded = load_config(given_flags(args))
    first, second = (
        environments.open_environment(flag, given)
        for flag, given in (("--from", args.first), ("--to", args.second))
    )
    for environment in (first, second):
        if not args.ml_train_may_differ:
            environments.refuse_other_version(environment, ml_train.__version__)
        terminal.notice(str(environment))
    if first.versions == second.versions:
        terminal.notice("both have the same versions: what follows shows the way, and no upgrade")

    # Imported once the environments are read: these import torch, which takes seconds.
    from ml_train.diagnosis import resumed_runs, verify_upgrade

    resumed_runs.check(loaded.config, "verify-upgrade")
    with work_folder(args.work_dir, "verify-upgrade-") as folder:
        result = verify_upgrade.verify_upgrade(
            loaded.config,
            (first, second),
            steps=args.verify_steps,
            num_processes=args.num_processes or runs.smallest_world(loaded.config),
            folder=folder,
            progress=terminal.notice,
        )
    faults = result.faults(args.tolerance)
    if args.json:
        terminal.result(json.dumps(result.to_dict(args.tolerance), indent=2))
    else:
        terminal.result(resumed_runs.table(result.rows))
        if details := verify_upgrade.differences(result):
            terminal.result(f"\n{details}\n")
    terminal.notice(_verdict(result.identical, faults, args.tolerance))
    return 1 if faults else 0


def _verdict(identical: bool, faults: list[str], tolerance: float) -> str:
    if identical:
        return "the run resumed under --to equals the one under --from to the bit"
    if not faults:
        return f"the runs differ, by no more than the tolerance of {tolerance:g}"
    others = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    return f"DIFFERENT: {faults[0]}{others}"
