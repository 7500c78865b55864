"""Settings that were given but change nothing in the chosen configuration: a table of rules.

They are warnings and not errors: launchers pass a full set of flags and turn a feature off
(`--eval-iters 0` beside `--eval-interval`). A warning is enough to bring a mistake to light.
"""

from collections.abc import Callable, Mapping

from ml_train.config.run import RunConfig

_Rule = tuple[str, Callable[[RunConfig], bool], str]
"""(section.name, whether the rule applies, why the setting has no effect)."""

_NO_LOAD = "it is about what --load brings, which is not given"
_NO_SAVE = "without --save nothing is written"
_NO_PROFILE = "without --profile nothing is profiled"
_NO_LOSS_CHECK = "without --check-for-spiky-loss no spike is looked for"
_NO_GRAD_CHECK = "without --check-for-large-grads no spike is looked for"
_MOCK = "--mock-data reads no files"
_NO_EVAL = "with --eval-iters 0 there is no validation"

RULES: tuple[_Rule, ...] = (
    # Data that is not read.
    ("data.split", lambda c: not c.data.data_path, "it divides --data-path, which is not given"),
    ("data.data_cache_path", lambda c: c.data.mock_data, _MOCK),
    ("data.shared_storage", lambda c: c.data.mock_data, _MOCK),
    ("data.no_mmap_bin_files", lambda c: c.data.mock_data, _MOCK),
    ("training.eval_interval", lambda c: c.training.eval_iters == 0, _NO_EVAL),
    ("data.valid_data_path", lambda c: c.training.eval_iters == 0, _NO_EVAL),
    ("data.test_data_path", lambda c: c.training.eval_iters == 0, _NO_EVAL),
    # A schedule, loss or layout without what the setting changes.
    (
        "optimizer.min_lr",
        lambda c: c.optimizer.lr_decay_style == "constant",
        "a constant learning rate has no end value",
    ),
    (
        "optimizer.lr_decay_iters",
        lambda c: c.optimizer.lr_decay_style == "constant",
        "a constant learning rate does not decay",
    ),
    (
        "model.moe_aux_loss_coeff",
        lambda c: c.model.moe_router_load_balancing_type == "none",
        "--moe-router-load-balancing-type none has no auxiliary loss",
    ),
    (
        "model.model",
        lambda c: c.model.model_config is not None,
        "--model-config says which model it is",
    ),
    (
        "parallel.sequence_parallel",
        lambda c: (
            c.parallel.sequence_parallel is True and c.parallel.tensor_model_parallel_size == 1
        ),
        "there is nothing to split at --tensor-model-parallel-size 1",
    ),
    (
        "parallel.overlap_param_gather",
        lambda c: c.parallel.overlap_param_gather,
        "layers here read weights of modules that they do not call, so all are gathered before "
        "each step",
    ),
    (
        "tokenizer.tokenizer_type",
        lambda c: c.tokenizer.path is None,
        "no tokenizer is given with --tokenizer-name-or-path",
    ),
    # Checks that are off, and policies that no check has.
    *(
        (
            f"health.{kind}_policy",
            lambda c: not c.health.check_for_nan_in_loss_and_grad,
            "with --no-check-for-nan-in-loss-and-grad such updates are only skipped",
        )
        for kind in ("nan_loss", "nan_grad")
    ),
    ("health.spiky_loss_policy", lambda c: not c.health.check_for_spiky_loss, _NO_LOSS_CHECK),
    ("health.spiky_loss_factor", lambda c: not c.health.check_for_spiky_loss, _NO_LOSS_CHECK),
    ("health.large_grads_policy", lambda c: not c.health.check_for_large_grads, _NO_GRAD_CHECK),
    ("health.large_grads_factor", lambda c: not c.health.check_for_large_grads, _NO_GRAD_CHECK),
    (
        "health.spike_window",
        lambda c: not (c.health.check_for_spiky_loss or c.health.check_for_large_grads),
        "neither --check-for-spiky-loss nor --check-for-large-grads is given",
    ),
    (
        "health.max_consecutive_skips",
        lambda c: not c.health.uses("skip"),
        "no policy in force is skip",
    ),
    (
        "health.max_rollbacks",
        lambda c: not c.health.uses("rollback"),
        "no policy in force is rollback",
    ),
    # Checkpoints that are neither written nor loaded.
    ("checkpoint.save_interval", lambda c: c.checkpoint.save is None, _NO_SAVE),
    ("checkpoint.async_save", lambda c: c.checkpoint.save is None, _NO_SAVE),
    ("checkpoint.keep_last", lambda c: c.checkpoint.save is None, _NO_SAVE),
    (
        "checkpoint.keep_every",
        lambda c: c.checkpoint.save is None or c.checkpoint.keep_last is None,
        "without --save and --keep-last no checkpoint is deleted",
    ),
    ("checkpoint.no_save_optim", lambda c: c.checkpoint.save is None, _NO_SAVE),
    ("checkpoint.no_load_optim", lambda c: c.checkpoint.load is None, _NO_LOAD),
    ("checkpoint.no_load_rng", lambda c: c.checkpoint.load is None, _NO_LOAD),
    (
        "checkpoint.no_verify_checksums",
        lambda c: (
            not (c.checkpoint.load or c.checkpoint.save or c.checkpoint.pretrained_checkpoint)
        ),
        "without --load, --save and --pretrained-checkpoint nothing is loaded",
    ),
    (
        "data.new_data_order",
        lambda c: not (c.checkpoint.load or c.checkpoint.save),
        "without --load and --save there is no checkpoint whose order it could change",
    ),
    # Reports that are not made.
    ("logging.profile_step_start", lambda c: not c.logging.profile, _NO_PROFILE),
    ("logging.profile_step_end", lambda c: not c.logging.profile, _NO_PROFILE),
    ("logging.profile_ranks", lambda c: not c.logging.profile, _NO_PROFILE),
    (
        "logging.wandb_exp_name",
        lambda c: c.logging.wandb_project is None,
        "without --wandb-project nothing goes to W&B",
    ),
)


def ineffective(config: RunConfig, given: Mapping[str, str]) -> list[str]:
    """One sentence per given setting (section.name -> origin) that has no effect."""
    return [
        f"{key} ({given[key]}) has no effect: {reason}."
        for key, applies, reason in RULES
        if key in given and applies(config)
    ]


def unreached(config: RunConfig) -> list[str]:
    """A sentence where the run ends before the warm-up reaches the learning rate; else empty."""
    optimizer, steps = config.optimizer, config.training.train_iters
    if optimizer.lr_warmup_fraction == 1.0 and optimizer.lr_decay_iters is None:
        given = "--lr-warmup-fraction 1.0"
    elif 0 < steps <= optimizer.lr_warmup_iters:
        given = f"--lr-warmup-iters {optimizer.lr_warmup_iters}"
    else:
        return []
    return [
        f"{given} with --train-iters {steps}: the run ends within the warm-up, and the learning "
        f"rate never reaches --lr {optimizer.lr}."
    ]
