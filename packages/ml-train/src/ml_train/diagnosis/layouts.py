"""A layout by its name: which sizes and switches it sets, and the run that tries it.

    tp2 pp2 vpp2 ep2 etp2 dp2   sizes; vpp counts virtual stages per process, dp is that of the
                                dense layers (EP is part of it, as in Megatron)
    mbs2                        sequences per micro batch, without the auxiliary loss only, which
                                is defined per micro batch
    distopt overlap             the distributed optimizer; overlapped reduction (and gathering)
    uneven                      one layer on the first pipeline stage, the others on the rest
    recompute selective         full and selective recomputation
    async                       the checkpoint is written in the background

Words are joined by hyphens: tp2-etp1, pp2-vpp2, ep2-dp4-distopt. Without dp, as few processes as
the layout needs.

Adam's epsilon is at least 1e-6 in these runs. Adam's first update of an element is the learning
rate times g / (|g| + epsilon). About one element in ten thousand has a gradient g that is no more
than rounding error, some 1e-8. With an epsilon of 1e-8 it would move by much of the learning rate,
in a direction that depends on the order of summation; with 1e-6 it hardly moves.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_train.config.run import RunConfig
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.config.sections.logging import LoggingSection
from ml_train.config.sections.parallel import ParallelSection
from ml_train.config.sections.training import TrainingSection
from ml_train.diagnosis.runs import on_some_data, smallest_world
from ml_train.errors import ConfigError, LayoutError
from ml_train.parallel.layout import make_layout

if TYPE_CHECKING:
    from ml_models.config import ModelConfig

STEPS, LEARNING_RATE, SMALLEST_ADAM_EPS = 5, 1e-3, 1e-6
DEFAULT_LAYOUTS = (
    *("tp2", "tp2-etp1", "etp2", "pp2", "pp2-vpp2", "ep2"),
    *("dp2", "dp2-distopt", "dp2-overlap", "ep2-distopt-overlap"),
)
_SIZES = ("tp", "pp", "vpp", "ep", "etp", "dp", "mbs")
_SWITCHES = ("distopt", "overlap", "uneven", "recompute", "selective", "async")
_WORD = re.compile(rf"^({'|'.join(_SIZES)})([1-9]\d*)$")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A legal layout and the run that tries it."""

    name: str
    num_processes: int
    topk: int
    """Experts per token."""
    config: RunConfig


def plan(
    config: RunConfig, model: "ModelConfig", names: Sequence[str], *, skip_illegal: bool
) -> tuple[list[Plan], list[str]]:
    """One process, then the named layouts; and why layouts were left out (with skip_illegal).

    Raises LayoutError or ConfigError for a layout that is not legal, before anything runs.
    """
    sizes = {name: parse(name) for name in names}
    # Any TP size of these divides it, so that the vocabulary can be padded alike in all layouts.
    common_tp = math.lcm(*(size.get("tp", 1) for size in sizes.values()))
    batch = config.training.global_batch_size or 4 * config.training.micro_batch_size
    plans, left_out = [], []
    for name, size in {"one process": {"dp": 1}, **sizes}.items():
        try:
            plans.append(_plan(name, size, config, model, batch, common_tp))
        except (LayoutError, ConfigError) as error:
            if not skip_illegal:
                raise LayoutError(f"Layout {name}: {error}") from error
            left_out.append(f"{name}: {error}")
    return plans, left_out


def parse(name: str) -> dict[str, int]:
    """Sizes and switches of a layout's name. Raises ConfigError."""
    sizes: dict[str, int] = {}
    for word in name.split("-"):
        match = _WORD.match(word)
        key = match[1] if match else word
        if key in sizes or not (match or word in _SWITCHES):
            raise ConfigError(
                f"--layouts {name}: {word!r}; rule: each of {', '.join(_SIZES)} with its size, "
                f"and of {', '.join(_SWITCHES)}, at most once, joined by hyphens, for example "
                "pp2-vpp2."
            )
        sizes[key] = int(match[2]) if match else 1
    return sizes


def _plan(
    name: str,
    size: Mapping[str, int],
    config: RunConfig,
    model: "ModelConfig",
    batch: int,
    common_tp: int,
) -> Plan:
    tp, pp = size.get("tp", 1), size.get("pp", 1)
    section = config.model
    changed = dataclasses.replace(
        config,
        parallel=_parallel(size, config, model),
        # Megatron pads to a multiple of this times TP: the product is the same for every TP size.
        model=dataclasses.replace(
            section,
            make_vocab_size_divisible_by=section.make_vocab_size_divisible_by * common_tp // tp,
        ),
        training=_training(size, config, batch),
        optimizer=dataclasses.replace(
            config.optimizer,
            lr=LEARNING_RATE,
            min_lr=0.0,
            lr_decay_style="constant",
            lr_decay_iters=None,
            lr_warmup_iters=0,
            lr_warmup_fraction=None,
            adam_eps=max(config.optimizer.adam_eps, SMALLEST_ADAM_EPS),
            use_distributed_optimizer="distopt" in size,
        ),
        checkpoint=CheckpointSection(async_save="async" in size, no_save_optim=True),
        logging=LoggingSection(),
    )
    changed = on_some_data(changed)
    changed.check()
    world = tp * pp * size["dp"] if "dp" in size else smallest_world(changed)
    make_layout(
        changed.parallel,
        model,
        world_size=world,
        micro_batch_size=changed.training.micro_batch_size,
        global_batch_size=batch,
    )
    return Plan(name=name, num_processes=world, topk=model.moe_router_topk, config=changed)


def _parallel(size: Mapping[str, int], config: RunConfig, model: "ModelConfig") -> ParallelSection:
    pp, virtual = size.get("pp", 1), size.get("vpp")
    if virtual is not None and model.num_layers % (pp * virtual):
        raise LayoutError(
            f"{virtual} virtual stages on each of {pp} processes; rule: they divide the model's "
            f"{model.num_layers} layers."
        )
    overlap = "overlap" in size
    return dataclasses.replace(
        config.parallel,
        tensor_model_parallel_size=size.get("tp", 1),
        pipeline_model_parallel_size=pp,
        num_layers_per_virtual_pipeline_stage=virtual and model.num_layers // (pp * virtual),
        decoder_first_pipeline_num_layers=1 if "uneven" in size else None,
        decoder_last_pipeline_num_layers=None,
        expert_model_parallel_size=size.get("ep", 1),
        expert_tensor_parallel_size=size.get("etp"),
        sequence_parallel=None,
        overlap_grad_reduce=overlap,
        overlap_param_gather=overlap and "distopt" in size,
    )


def _training(size: Mapping[str, int], config: RunConfig, batch: int) -> TrainingSection:
    training = dataclasses.replace(
        config.training,
        global_batch_size=batch,
        train_iters=STEPS,
        eval_iters=0,
        exit_interval=None,
        exit_duration_in_mins=None,
        bf16=False,
    )
    if "mbs" in size:
        if config.model.moe_router_load_balancing_type != "none":
            raise ConfigError(
                f"micro batches of {size['mbs']}; rule: the auxiliary loss is defined per micro "
                "batch, so their size may vary only with --moe-router-load-balancing-type none."
            )
        training = dataclasses.replace(training, micro_batch_size=size["mbs"])
    if "recompute" in size:
        training = dataclasses.replace(
            training,
            recompute_granularity="full",
            recompute_method="uniform",
            recompute_num_layers=1,
        )
    if "selective" in size:
        training = dataclasses.replace(
            training,
            recompute_granularity="selective",
            recompute_method=None,
            recompute_num_layers=None,
        )
    return training
