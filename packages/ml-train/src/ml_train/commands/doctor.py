"""ml-train doctor: what an installation, its device and its environment lack, before a run."""

import argparse

from ml_train import terminal
from ml_train.diagnosis.doctor import findings, own_environment
from ml_train.errors import DONE, FAILED

DESCRIPTION = (
    "Look at the installation, the device and the environment of this machine. Prints a line for "
    "each thing, and for each fault a sentence with the fix. Exit code 1 means a fault."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which device to look at."""
    parser.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, npu or a plug-in's platform; auto takes what there is (default: auto).",
    )


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 where one of them is a fault."""
    faults = 0
    for finding in findings(args.device, own_environment()):
        faults += finding.verdict == "fault"
        terminal.result(f"{finding.verdict:<6}{finding.subject:<15}{finding.text}")
    terminal.notice(f"{faults} faults" if faults else "no fault")
    return FAILED if faults else DONE
