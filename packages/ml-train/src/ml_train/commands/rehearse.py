"""ml-train rehearse: what of a cluster job would fail, found on a laptop."""

import argparse
import json
from pathlib import Path

from ml_train import terminal
from ml_train.bring_up import start_platform
from ml_train.config.flags import add_config_flags, given_flags
from ml_train.config.load import attempt_config
from ml_train.config.sections.rules import COUNT, check_number
from ml_train.errors import DONE, FAILED
from ml_train.planning.target import add_target_flags, target_device
from ml_train.rehearsal import report
from ml_train.rehearsal.job import Cluster
from ml_train.rehearsal.rehearse import rehearse
from ml_train.rehearsal.toy import ToyRun

DESCRIPTION = (
    "Start a cluster job up on this machine, without its devices: settings, layout, versions, "
    "data, room for checkpoints, the memory of every kind of rank, and the checkpoint that the run "
    "begins with. Then train the same kind of job at toy width on a few processes, kill it, and "
    "resume it. Every fault is told with its fix. Give the flags of ml-train pretrain, with the "
    "paths of data, tokenizer and checkpoints as this machine has them. Nothing is written but "
    "into a temporary folder. Exit code 1 where the job would fail."
)
EXAMPLE = (
    "example: ml-train rehearse --recipe grok1-40b --device ascend-910b --nnodes 2 "
    "--nproc-per-node 8 --data-path DATA --save SAVE"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run's own flags, the cluster, and how much to try."""
    parser.epilog = EXAMPLE
    add_target_flags(parser)
    parser.add_argument(
        "--packages",
        nargs="+",
        default=[],
        metavar="FILE",
        help="What `pip freeze` printed on the cluster, a file for each kind of node: its versions "
        "are checked, and compared between the nodes.",
    )
    parser.add_argument(
        "--toy-run",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Train, kill and resume the job at toy width (default: yes; a minute or two).",
    )
    parser.add_argument(
        "--toy-processes",
        type=int,
        default=None,
        help="Processes of that run at most. Default: two for each core, 8 at most.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON instead of lines.")
    add_config_flags(parser, without=("device",))


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 where one of them is an error."""
    device = target_device(args.device)
    del args.device  # In every other command the flag names a platform of this machine.
    per_node = device.devices_per_node if args.nproc_per_node is None else args.nproc_per_node
    check_number("--nnodes", args.nnodes, COUNT)
    check_number("--nproc-per-node", per_node, COUNT)
    check_number("--toy-processes", args.toy_processes, COUNT)
    cluster = Cluster(
        device=device,
        num_nodes=args.nnodes,
        processes_per_node=per_node,
        package_lists=tuple(map(Path, args.packages)),
    )
    attempt = attempt_config(given_flags(args))
    start_platform("cpu")
    rehearsal = rehearse(
        attempt,
        cluster,
        progress=terminal.notice,
        toy=ToyRun(most_processes=args.toy_processes) if args.toy_run else None,
    )
    if args.json:
        terminal.result(json.dumps(report.document(rehearsal), indent=2))
    else:
        terminal.result(report.text(rehearsal))
    return FAILED if rehearsal.errors else DONE
