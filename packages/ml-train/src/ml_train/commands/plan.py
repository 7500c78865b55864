"""ml-train plan: what a run needs of every device, without any."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ml_models import platforms
from ml_models.bring_up import import_model_code
from ml_train import terminal
from ml_train.bring_up import start_platform
from ml_train.config.fields import settings
from ml_train.config.flags import add_config_flags, given_flags
from ml_train.config.load import LoadedConfig, load_config
from ml_train.config.run import RunConfig
from ml_train.config.sections.rules import COUNT, POSITIVE, check_number
from ml_train.errors import DONE, ConfigError, LayoutError, MlTrainError
from ml_train.parallel.layout import Layout
from ml_train.planning import launcher, legality, report, time_report
from ml_train.planning.calibration.run import calibrate, numbers_up_to
from ml_train.planning.plot_file import format_of
from ml_train.planning.run_time import STORAGE_BYTES_PER_SECOND, RunScope
from ml_train.planning.search.space import SIZES, Space
from ml_train.planning.target import add_target_flags, measured_on, target_device

if TYPE_CHECKING:
    from ml_train.planning.plan import RunPlan

DESCRIPTION = (
    "Plan a run: build the ranks that differ on torch's meta device, do a training step with them, "
    "and print the memory and the traffic of a rank. Takes a recipe and every flag of ml-train "
    "pretrain, needs no device and a few seconds, also for 1,024 devices. Exit code 1 where the "
    "run does not fit. With --search it tries every legal layout of these devices and ranks them."
)
CPU_PROCESSES = 4
"""Most processes of a calibration of the CPU: enough for the layouts that fit a laptop."""
EXAMPLE = (
    "example: ml-train plan --recipe grok1-40b --device ascend-910b --nnodes 2 --nproc-per-node 8 "
    "--search --write launch.sh"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run's own flags, the devices, and the form of the answer."""
    parser.epilog = EXAMPLE
    add_target_flags(parser, device_required=False)
    parser.add_argument(
        "--calibrate",
        metavar="FILE.toml",
        help="Plan nothing: measure this machine and write a device file for --device. Measures "
        "matrix products, memory, the host and messages with 1, 2, 4, ... up to --nproc-per-node "
        "processes (default: 4 on the CPU, 1 elsewhere), about 20 seconds for each. --device then "
        "says what is measured: cpu, cuda, npu or auto (default: auto).",
    )
    parser.add_argument(
        "--train-tokens",
        type=float,
        default=None,
        help="Tokens of the run, such as 1e12, for its days and device-hours. Default: those of "
        "--train-iters.",
    )
    parser.add_argument(
        "--storage-gigabytes-per-second",
        type=float,
        default=STORAGE_BYTES_PER_SECOND / 1e9,
        help="What a node writes to --save, for the time of a checkpoint (default: 1).",
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="Draw memory, pipeline and time of a step in FILE: .png, .svg or .pdf.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON instead of tables.")
    parser.add_argument(
        "--search",
        nargs="*",
        choices=SIZES,
        default=None,
        metavar="SIZE",
        help="Rank the legal layouts of the devices by the time of a step and build the best ten. "
        f"Behind the flag: the sizes that may vary, of {', '.join(SIZES)}; none means all. The "
        "others stay as the recipe and the flags have them.",
    )
    parser.add_argument(
        "--write",
        type=Path,
        default=None,
        metavar="FILE",
        help="Write the planned run, or the best of the search, as a launcher FILE.sh or as a "
        "recipe FILE.toml for --recipe. A file that ml-train plan did not write is kept.",
    )
    add_config_flags(parser, without=("device",))


def run(args: argparse.Namespace) -> int:
    """Print the plan; 1 where a rank needs more memory than the device has."""
    if args.calibrate is not None:
        return _calibrate(args)
    if args.device is None:
        raise ConfigError(
            "--device is not given; name the device of the run, such as h100, or a FILE.toml. "
            "ml-train plan --calibrate FILE.toml measures this machine and writes such a file."
        )
    device = target_device(args.device)
    measured = measured_on(args.device)
    del args.device  # In every other command the flag names a platform of this machine.
    per_node = device.devices_per_node if args.nproc_per_node is None else args.nproc_per_node
    check_number("--nnodes", args.nnodes, COUNT)
    check_number("--nproc-per-node", per_node, COUNT)
    if args.write is not None:
        launcher.check_target(args.write)
    storage = args.storage_gigabytes_per_second
    check_number("--storage-gigabytes-per-second", storage, POSITIVE)
    check_number("--train-tokens", args.train_tokens, COUNT)
    if args.plot:
        format_of(Path(args.plot))
    loaded = load_config(given_flags(args))
    layout = None if args.search is not None else _layout(loaded, args.nnodes * per_node)
    start_platform("cpu")

    import_model_code(loaded.model)

    # This import brings megatron-core, which comes after the platform.
    from ml_train.planning import of_run

    if layout is None:
        vary = tuple(args.search) or SIZES
        space = Space(world=args.nnodes * per_node, devices_per_node=per_node, vary=vary)
        result = of_run.show_search(loaded, space, device, as_json=args.json)
        best = result.best[0] if result.best else None
        if args.write is not None:
            chosen = None if best is None else (best.timed.candidate.config, of_run.figures(best))
            _write(args, per_node, chosen)
        return 1 if best is None else 0
    scope = RunScope(
        train_tokens=None if args.train_tokens is None else int(args.train_tokens),
        storage_bytes_per_second=storage * 1e9,
    )
    plan = of_run.plan_run(
        *(loaded, layout, device, per_node),
        measured=measured,
        scope=scope,
        progress=terminal.detail,
    )
    if args.plot:
        of_run.save_plot(plan, Path(args.plot), plan.time.step.parts)
    _show(plan, as_json=args.json)
    if args.write is not None:
        planned = (loaded.config, report.headline(plan))
        _write(args, per_node, planned if plan.margin >= 0 else None)
    return 1 if plan.margin < 0 else 0


def _calibrate(args: argparse.Namespace) -> int:
    """Measure this machine and write the device file."""
    name = platforms.platform_class(args.device or "auto").name
    del args.device
    usual = CPU_PROCESSES if name == "cpu" else 1
    most = usual if args.nproc_per_node is None else args.nproc_per_node
    check_number("--nproc-per-node", most, COUNT)
    given = given_flags(args)
    idle = [settings()[name].flag for name in given.values] + list(given.statements)
    others = {
        "--recipe": given.recipe is not None,
        "--config": given.config_file is not None,
        "--nnodes": args.nnodes != 1,
        "--json": args.json,
        "--search": args.search is not None,
        "--write": args.write is not None,
        "--train-tokens": args.train_tokens is not None,
        "--storage-gigabytes-per-second": args.storage_gigabytes_per_second
        != STORAGE_BYTES_PER_SECOND / 1e9,
    }
    idle += [flag for flag, is_given in others.items() if is_given]
    if idle:
        raise ConfigError(
            "--calibrate measures this machine and plans no run, so that "
            f"{', '.join(idle)} would have no effect; drop it."
        )
    path = Path(args.calibrate)
    calibrate(path, platform=name, numbers=numbers_up_to(most), progress=terminal.notice)
    terminal.result(f"wrote {path}; plan a run on this machine: ml-train plan --device {path} ...")
    return DONE


def _show(plan: "RunPlan", *, as_json: bool) -> None:
    """Print the plan."""
    if as_json:
        terminal.result(json.dumps(report.document(plan), indent=2))
        return
    terminal.result(report.headline(plan))
    terminal.table(report.memory_table(plan), width=110)
    terminal.table(report.traffic_table(plan), width=110)
    for item in plan.advice:
        terminal.result(f"{item.flags} saves {report.gigabytes(item.saved_bytes)}")
    if plan.measured_step is not None:
        terminal.result(plan.measured_step.words())
    else:
        terminal.table(time_report.time_table(plan.time), width=120)
        for sentence in time_report.sentences(plan.time):
            terminal.result(sentence)
    terminal.result(report.staging_sentence(plan))
    terminal.result(report.forms_sentence(plan))
    for note in (*plan.notes, *plan.time.step.assumptions):
        terminal.result(f"- {note}")


def _write(
    args: argparse.Namespace, devices_per_node: int, planned: tuple[RunConfig, str] | None
) -> None:
    """Write the file of --write: a configuration and its figures; MlTrainError without them."""
    if planned is None:
        raise MlTrainError(
            f"--write {args.write}: nothing fits, so that nothing was written; rule: only a run "
            "that fits is written. Plan it on more devices, or make room as the plan says."
        )
    config, figures = planned
    run = launcher.PlannedRun(
        config=config, nodes=args.nnodes, devices_per_node=devices_per_node, figures=figures
    )
    launcher.write_run(args.write, run)
    terminal.notice(f"Wrote {args.write}.")


def _layout(loaded: LoadedConfig, world_size: int) -> Layout:
    """The layout, or a LayoutError that names the nearest legal ones."""
    try:
        return legality.layout_of(loaded.config, loaded.model, world_size)
    except LayoutError as error:
        hint = legality.neighbours(loaded.config, loaded.model, world_size)
        raise LayoutError(f"{error} {hint}") from error
