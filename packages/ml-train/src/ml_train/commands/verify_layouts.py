"""ml-train verify-layouts: show that layouts give the numbers that one process gives."""

import argparse
import dataclasses
import json

from ml_train import terminal
from ml_train.config.flags import add_config_flags, given_flags
from ml_train.config.load import LoadedConfig, load_config
from ml_train.config.run import RunConfig
from ml_train.diagnosis import layouts
from ml_train.diagnosis.work_folder import work_folder
from ml_train.errors import ConfigError

DESCRIPTION = (
    "Train a recipe for 5 steps at learning rate 1e-3 in float32, on one process and in each "
    "layout, and compare loss, auxiliary loss, gradient norm, expert choices and every parameter. "
    "The recipe's own layout, schedule and length are not used, and Adam's epsilon is at least "
    "1e-6; sequences are at most 64 tokens and a global batch is 4 micro batches unless "
    "--seq-length and --global-batch-size say otherwise. Tokens are made up where no data is "
    "given. Starts its own processes: no torchrun needed."
)
CHOSEN_OPTIMIZER = ("lr", "min_lr", "adam_eps", "use_distributed_optimizer")
CHOSEN_TRAINING = ("train_iters", "bf16", "eval_interval", "eval_iters", "exit_interval")
KEPT_PARALLEL = ("distributed_backend", "distributed_timeout_minutes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run's own flags, which layouts, and the form of the answer."""
    add_config_flags(parser)
    parser.add_argument(
        "--layouts",
        nargs="+",
        default=None,
        metavar="LAYOUT",
        help="Words tpN ppN vppN epN etpN dpN mbsN distopt overlap uneven recompute selective "
        "async joined by hyphens, for example pp2-vpp2. Default: ten layouts of two processes.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    parser.add_argument(
        "--work-dir",
        default=None,
        help="Keep logs and checkpoints here. Default: thrown away, but for a run that fails.",
    )


def run(args: argparse.Namespace) -> int:
    """Print the table; 1 if a layout disagrees."""
    loaded = load_config(given_flags(args))
    config = _shortened(loaded)

    # Imported once the flags are checked: verify_layouts imports torch, seconds.
    from ml_train.diagnosis import verify_layouts

    model = loaded.model.replace(seq_length=config.training.seq_length)
    names = list(dict.fromkeys(args.layouts or layouts.DEFAULT_LAYOUTS))
    plans, left_out = layouts.plan(config, model, names, skip_illegal=not args.layouts)
    for text in left_out:
        terminal.notice(f"left out, as this model has no such layout: {text}")
    with work_folder(args.work_dir, "verify-layouts-") as folder:
        results = verify_layouts.verify_layouts(plans, folder=folder, progress=terminal.notice)
    if args.json:
        document = {"results": [result.to_dict() for result in results], "left_out": left_out}
        terminal.result(json.dumps(document, indent=2))
    else:
        terminal.table(verify_layouts.table(results), width=110)
    differing = [result for result in results if not result.agrees]
    for result in differing:
        fault = result.error or f"most in {result.worst_parameter or 'metrics'}"
        terminal.notice(f"{result.layout}: {fault}")
    return 1 if differing else 0


def _shortened(loaded: LoadedConfig) -> RunConfig:
    """The recipe with short sequences and few of them. Raises ConfigError for useless flags."""
    config = loaded.config
    for key, origin in loaded.origins.items():
        section, _, name = key.partition(".")
        chosen = (
            (section == "parallel" and name not in KEPT_PARALLEL)
            or section in ("checkpoint", "logging")
            or name in CHOSEN_TRAINING
            or (section == "optimizer" and (name in CHOSEN_OPTIMIZER or name.startswith("lr_")))
        )
        if chosen and origin.startswith("flag "):
            raise ConfigError(f"verify-layouts chooses {origin[5:]} itself: drop it.")
    batch, length = config.training.global_batch_size, loaded.model.seq_length
    if not loaded.origins["training.global_batch_size"].startswith("flag "):
        batch = 4 * config.training.micro_batch_size
    if not loaded.origins["training.seq_length"].startswith("flag "):
        length = min(length, 64)
    training = dataclasses.replace(config.training, global_batch_size=batch, seq_length=length)
    return dataclasses.replace(config, training=training)
