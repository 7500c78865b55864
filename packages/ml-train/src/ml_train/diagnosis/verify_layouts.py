"""Do layouts give the same numbers? One run of a few steps per layout, compared with one process.

Every run starts from the same seed and takes the same sequences per global batch, in float32, as a
user would start it (torchrun, `ml-train pretrain`). The micro-batch size is the same throughout:
the auxiliary loss is defined per micro batch. Compared are loss, auxiliary loss and gradient norm
of each step, and each parameter after the last one. A layout's name says what it sets:

    tp2 pp2 vpp2 ep2 etp2 dp2     sizes; vpp counts virtual stages per process, dp is that of the
                                  dense layers (EP is part of it, as in Megatron)
    distopt overlap               the distributed optimizer; overlapped reduction (and gathering)

Words are joined by hyphens: tp2-etp1, pp2-vpp2, ep2-dp4-distopt. Without dp, as few processes as
the layout needs.
"""

import dataclasses
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_train.checkpoint.compare import Comparison, compare
from ml_train.checkpoint.config import CheckpointConfig
from ml_train.checkpoint.store import folder_of
from ml_train.config.logging import LoggingConfig
from ml_train.config.run import RunConfig
from ml_train.config.tokenizer import TokenizerSection
from ml_train.data.config import DataConfig
from ml_train.diagnosis.runs import numbers, smallest_world, start, words_of
from ml_train.errors import ConfigError, LayoutError, MlTrainError
from ml_train.parallel.layout import make_layout

if TYPE_CHECKING:
    from ml_models.config import ModelConfig

STEPS, LEARNING_RATE = 5, 1e-3
TOLERANCE = 1e-5
"""Relative: of loss, auxiliary loss, gradient norm, and of each parameter tensor in L2 norm."""
ELEMENT_TOLERANCE = 0.05
"""Of one element of a parameter, as a share of the learning rate."""
DEFAULT_LAYOUTS = (
    *("tp2", "tp2-etp1", "etp2", "pp2", "pp2-vpp2", "ep2"),
    *("dp2", "dp2-distopt", "dp2-overlap", "ep2-distopt-overlap"),
)
_SIZES = ("tp", "pp", "vpp", "ep", "etp", "dp")
_WORD = re.compile(rf"^({'|'.join(_SIZES)})([1-9]\d*)$")
_METRICS = ("loss", "aux_loss", "grad_norm")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A legal layout and the run that shows it."""

    name: str
    num_processes: int
    config: RunConfig


@dataclass(frozen=True, kw_only=True)
class Result:
    """How far a layout is from one process: the largest differences."""

    layout: str
    num_processes: int
    seconds: float
    loss: float = 0.0
    aux_loss: float = 0.0
    grad_norm: float = 0.0
    parameter_l2: float = 0.0
    """Of the tensor that differs most; relative."""
    parameter_element: float = 0.0
    """Of one element, as a share of the learning rate."""
    worst_parameter: str = ""
    expert_load: float = 0.0
    """Share of token slots that went to other experts, in the layer and step where most did."""
    error: str = ""
    """Why the run, or a comparison, was not possible."""

    @property
    def agrees(self) -> bool:
        """Within the tolerances."""
        relative = (self.loss, self.aux_loss, self.grad_norm, self.parameter_l2)
        within = all(value <= TOLERANCE for value in relative)
        return within and self.parameter_element <= ELEMENT_TOLERANCE and not self.error

    def describe(self) -> str:
        """One line, as soon as a layout is done."""
        if self.error:
            return f"failed: {self.error}"
        return (
            f"{'agrees' if self.agrees else 'DIFFERS'}: loss {self.loss:.1e}, "
            f"aux {self.aux_loss:.1e}, norm {self.grad_norm:.1e}, tensor {self.parameter_l2:.1e}, "
            f"element {self.parameter_element:.1e} x lr, {self.seconds:.0f} s"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what is not a number is null."""
        values = dataclasses.asdict(self)
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[name] = None
        return {**values, "agrees": self.agrees}


def plan(
    config: RunConfig, model: "ModelConfig", names: Sequence[str], *, skip_illegal: bool
) -> tuple[list[Plan], list[str]]:
    """One process, then the named layouts; and why layouts were left out (with skip_illegal).

    Raises LayoutError or ConfigError for a layout that is not legal, before anything runs.
    """
    sizes = {name: parse(name) for name in names}
    tensor = math.lcm(*(each.get("tp", 1) for each in sizes.values()))
    batch = config.training.global_batch_size or 4 * config.training.micro_batch_size
    plans, left_out = [], []
    for name, size in {"one process": {"dp": 1}, **sizes}.items():
        try:
            plans.append(_plan(name, size, config, model, batch, tensor))
        except (LayoutError, ConfigError) as error:
            if not skip_illegal:
                raise LayoutError(f"Layout {name}: {error}") from error
            left_out.append(f"{name}: {error}")
    return plans, left_out


def parse(name: str) -> dict[str, int]:
    """Sizes and switches of a layout's name. Raises ConfigError."""
    found: dict[str, int] = {}
    for word in name.split("-"):
        match = _WORD.match(word)
        key = match[1] if match else word
        if key in found or not (match or word in ("distopt", "overlap")):
            raise ConfigError(
                f"--layouts {name}: {word!r}; rule: each of {', '.join(_SIZES)} with its size, "
                "distopt and overlap at most once, joined by hyphens, for example pp2-vpp2."
            )
        found[key] = int(match[2]) if match else 1
    return found


def verify_layouts(
    plans: Sequence[Plan], *, folder: Path, progress: Callable[[str], None]
) -> list[Result]:
    """Run all plans, the first being the baseline. Raises MlTrainError where that one fails."""
    folder.mkdir(parents=True, exist_ok=True)
    baseline, *others = plans
    data = synthetic_data(baseline.config, folder / "tokens")
    progress(f"{baseline.name}, {STEPS} steps")
    _run(baseline, folder, data)
    results = []
    for each in others:
        progress(f"{each.name}: {each.num_processes} processes, {STEPS} steps")
        results.append(_result(each, baseline, folder, data))
        progress("  " + results[-1].describe())
    return results


def table(results: Iterable[Result]) -> Any:
    """A rich table."""
    from rich.table import Table

    shown = Table(title=f"largest differences from one process, {STEPS} steps (relative)")
    shown.add_column("layout", no_wrap=True)
    for heading in ("loss", "aux", "norm", "tensor L2", "element/lr", "experts", "s"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("verdict", no_wrap=True)
    for each in results:
        figures = (each.loss, each.aux_loss, each.grad_norm, each.parameter_l2)
        cells = [f"{value:.1e}" for value in (*figures, each.parameter_element, each.expert_load)]
        if each.error:
            cells = ["-"] * len(cells)
        verdict = "agrees" if each.agrees else "FAILED" if each.error else "DIFFERS"
        shown.add_row(each.layout, *cells, f"{each.seconds:.0f}", verdict)
    return shown


def synthetic_data(config: RunConfig, prefix: Path) -> list[str]:
    """Flags of a token file that depends on nothing but the model's shape and the seed."""
    if config.data != DataConfig():
        return []
    import numpy as np

    from ml_data.indexed.writer import IndexedDatasetWriter

    model = config.model.resolve()
    length = (config.training.seq_length or model.seq_length) + 1
    sequences = STEPS * (config.training.global_batch_size or 1) + 1
    generator = np.random.default_rng(config.training.seed)
    with IndexedDatasetWriter(prefix, np.dtype("<i4")) as writer:
        tokens = generator.integers(0, model.vocab_size, length * sequences, dtype=np.int32)
        writer.add_batch(tokens, np.full(sequences, length))
        writer.finalize()
    return ["--data-path", str(prefix), "--split", "1,0,0"]


def _plan(
    name: str,
    size: Mapping[str, int],
    config: RunConfig,
    model: "ModelConfig",
    batch: int,
    tensor: int,
) -> Plan:
    tp, pp = size.get("tp", 1), size.get("pp", 1)
    distributed, overlap = "distopt" in size, "overlap" in size
    virtual = size.get("vpp")
    if virtual is not None and model.num_layers % (pp * virtual):
        raise LayoutError(
            f"{virtual} virtual stages on each of {pp} processes; rule: they divide the model's "
            f"{model.num_layers} layers."
        )
    parallel = dataclasses.replace(
        config.parallel,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        num_layers_per_virtual_pipeline_stage=virtual and model.num_layers // (pp * virtual),
        decoder_first_pipeline_num_layers=None,
        decoder_last_pipeline_num_layers=None,
        expert_model_parallel_size=size.get("ep", 1),
        expert_tensor_parallel_size=size.get("etp"),
        sequence_parallel=None,
        overlap_grad_reduce=overlap,
        overlap_param_gather=overlap and distributed,
    )
    section = config.model
    changed = dataclasses.replace(
        config,
        parallel=parallel,
        # The padded vocabulary is the same for every TP size.
        model=dataclasses.replace(
            section,
            make_vocab_size_divisible_by=section.make_vocab_size_divisible_by * tensor // tp,
        ),
        training=dataclasses.replace(
            config.training,
            global_batch_size=batch,
            train_iters=STEPS,
            eval_iters=0,
            exit_interval=None,
            exit_duration_in_mins=None,
            bf16=False,
        ),
        optimizer=dataclasses.replace(
            config.optimizer,
            lr=LEARNING_RATE,
            min_lr=0.0,
            lr_decay_style="constant",
            lr_decay_iters=None,
            lr_warmup_iters=0,
            lr_warmup_fraction=None,
            use_distributed_optimizer=distributed,
        ),
        checkpoint=CheckpointConfig(async_save=False, no_save_optim=True),
        logging=LoggingConfig(),
    )
    if config.data == DataConfig():
        changed = dataclasses.replace(changed, tokenizer=TokenizerSection())
    changed.check()
    world = tp * pp * size["dp"] if "dp" in size else smallest_world(changed)
    make_layout(
        parallel,
        model,
        world_size=world,
        micro_batch_size=config.training.micro_batch_size,
        global_batch_size=batch,
    )
    return Plan(name=name, num_processes=world, config=changed)


def _run(each: Plan, folder: Path, data: list[str]) -> None:
    place = _place(each, folder)
    words = [*words_of(each.config), *data, "--save", str(place)]
    words += ["--metrics-file", f"{place}.jsonl"]
    start(words, each.num_processes, Path(f"{place}.log"))


def _place(each: Plan, folder: Path) -> Path:
    return folder / each.name.replace(" ", "-")


def _result(each: Plan, baseline: Plan, folder: Path, data: list[str]) -> Result:
    began = time.monotonic()
    found: dict[str, Any] = {}
    try:
        _run(each, folder, data)
        ours, theirs = (_place(one, folder) for one in (baseline, each))
        found |= _metrics(Path(f"{ours}.jsonl"), Path(f"{theirs}.jsonl"))
        found |= _parameters(compare(folder_of(ours, STEPS), folder_of(theirs, STEPS)))
    except MlTrainError as error:
        found["error"] = str(error)
    seconds = time.monotonic() - began
    return Result(layout=each.name, num_processes=each.num_processes, seconds=seconds, **found)


def _metrics(first: Path, second: Path) -> dict[str, Any]:
    ours, theirs = numbers(first), numbers(second)
    steps = range(1, STEPS + 1)
    if any(number not in ours or number not in theirs for number in steps):
        raise MlTrainError(f"{first} and {second} do not both have steps 1 to {STEPS}.")
    found = {
        name: max(_relative(ours[number][at], theirs[number][at]) for number in steps)
        for at, name in enumerate(_METRICS)
    }
    return {**found, "expert_load": _moved(_loads(first), _loads(second))}


def _relative(one: float, two: float) -> float:
    if not (math.isfinite(one) and math.isfinite(two)):
        return math.inf
    return abs(one - two) / max(abs(one), sys.float_info.min) if one != two else 0.0


def _loads(path: Path) -> list[list[list[float]]]:
    """Step, layer, expert -> share of token slots."""
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [record["expert_load"] for record in records if "expert_load" in record]


def _moved(first: list[list[list[float]]], second: list[list[list[float]]]) -> float:
    shares = [
        sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / 2
        for one, two in zip(first, second, strict=True)
        for ours, theirs in zip(one, two, strict=True)
    ]
    return max(shares, default=0.0)


def _parameters(comparisons: Iterable[Comparison]) -> dict[str, Any]:
    norm, element, worst, error = 0.0, 0.0, "", ""
    for each in comparisons:
        if each.key in ("run state", "random states"):
            continue
        if each.note:
            error = error or f"{each.key}: {each.note}"
        if each.relative_l2 > norm:
            norm, worst = each.relative_l2, each.key
        element = max(element, each.max_difference / LEARNING_RATE)
    return {
        "parameter_l2": norm,
        "parameter_element": element,
        "worst_parameter": worst,
        "error": error,
    }
