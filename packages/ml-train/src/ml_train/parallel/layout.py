"""Is a layout legal? Answered from numbers alone, before any process group or model exists.

world = TP x PP x DP. The processes of a pipeline stage are divided twice: as TP x DP for the dense
layers, and as ETP x EP x EDP for the experts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_models.build import check_layout
from ml_models.errors import LayoutError as ModelLayoutError
from ml_train.config.sections.parallel import ParallelSection
from ml_train.errors import LayoutError

if TYPE_CHECKING:
    from ml_models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class World:
    """Where this process stands among the processes of the run."""

    rank: int
    size: int
    local_rank: int

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> "World":
        """From the variables that torchrun sets; a world of one process where it sets none."""
        values = []
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)):
            text = environment.get(name, str(default))
            if not text.isdecimal():
                raise LayoutError(f"{name} is {text!r} in the environment; rule: a whole number.")
            values.append(int(text))
        rank, size, local_rank = values
        if not 0 <= rank < size:
            raise LayoutError(
                f"RANK is {rank} and WORLD_SIZE {size} in the environment; rule: RANK counts from "
                "0 to WORLD_SIZE - 1. Start the run with torchrun."
            )
        return World(rank=rank, size=size, local_rank=local_rank)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of a legal layout."""

    world: int
    """Processes of the run."""
    tp: int
    """Processes that share each weight matrix of a dense layer."""
    pp: int
    """Pipeline stages."""
    ep: int
    """Groups that the experts are dealt to."""
    etp: int
    """Processes that share each expert's matrices."""
    dp: int
    """Copies of each dense layer."""
    edp: int
    """Copies of each expert."""
    vp: int
    """Virtual stages per pipeline rank; 1 without the interleaved schedule."""
    sequence_parallel: bool
    """Activations are split along the sequence between TP ranks."""
    global_batch_size: int
    """Sequences of an optimizer step."""
    num_microbatches: int
    """Micro batches of a data-parallel rank in an optimizer step."""


def make_layout(
    parallel: ParallelSection,
    model: "ModelConfig",
    *,
    world_size: int,
    micro_batch_size: int,
    global_batch_size: int | None,
) -> Layout:
    """The layout of a run. Raises LayoutError naming the value, the rule and a fix."""
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    ep = parallel.expert_model_parallel_size
    etp = parallel.expert_tensor_size
    # Asked for at TP 1 it has no effect, which config/ineffective.py reports.
    sequence_parallel = tp > 1 and parallel.sequence_parallel is not False
    _check_model(model, tp=tp, pp=pp, ep=ep, etp=etp)
    vp = _check_pipeline(parallel, model, pp)
    _check_world(world_size, tp=tp, pp=pp, ep=ep, etp=etp)
    _check_sequence(model, tp, sequence_parallel)
    dp = world_size // (tp * pp)
    batch = global_batch_size or micro_batch_size * dp
    num_microbatches = _microbatches(batch, micro_batch_size, dp, pp=pp, vp=vp)
    return Layout(
        world=world_size,
        tp=tp,
        pp=pp,
        ep=ep,
        etp=etp,
        dp=dp,
        edp=world_size // (etp * ep * pp),
        vp=vp,
        sequence_parallel=sequence_parallel,
        global_batch_size=batch,
        num_microbatches=num_microbatches,
    )


def layout_faults(
    parallel: ParallelSection,
    model: "ModelConfig",
    *,
    world_size: int,
    micro_batch_size: int,
    global_batch_size: int | None,
) -> list[LayoutError]:
    """Every rule that the layout breaks, where make_layout raises the first alone."""
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    ep = parallel.expert_model_parallel_size
    etp = parallel.expert_tensor_size
    sequence_parallel = tp > 1 and parallel.sequence_parallel is not False
    checks: list[Callable[[], object]] = [
        # A dimension at a time, so that an illegal TP does not hide an illegal EP.
        lambda: _check_model(model, tp=tp, pp=1, ep=1, etp=1),
        lambda: _check_model(model, tp=1, pp=1, ep=ep, etp=1),
        lambda: _check_model(model, tp=1, pp=pp, ep=1, etp=1),
        lambda: _check_pipeline(parallel, model, pp),
        lambda: _check_world(world_size, tp=tp, pp=pp, ep=ep, etp=etp),
        lambda: _check_sequence(model, tp, sequence_parallel),
    ]
    if etp != tp:
        checks.insert(2, lambda: _check_model(model, tp=1, pp=1, ep=1, etp=etp))
    faults = [fault for check in checks if (fault := _fault_of(check))]
    if _fault_of(checks[-2]) or _fault_of(checks[-3]):
        # The batch is divided by sizes that do not stand yet.
        return faults
    vp = _check_pipeline(parallel, model, pp)
    dp = world_size // (tp * pp)
    batch = global_batch_size or micro_batch_size * dp
    fault = _fault_of(lambda: _microbatches(batch, micro_batch_size, dp, pp=pp, vp=vp))
    return [*faults, fault] if fault else faults


def _fault_of(check: Callable[[], object]) -> LayoutError | None:
    try:
        check()
    except LayoutError as error:
        return error
    return None


def _check_model(model: "ModelConfig", *, tp: int, pp: int, ep: int, etp: int) -> None:
    """The rules of the model itself, with the names of ml-train's flags in their errors."""
    try:
        check_layout(model, tp=tp, pp=pp, ep=ep, etp=etp)
    except ModelLayoutError as error:
        name, _, rest = str(error).partition(" ")
        raise LayoutError(f"--{name.replace('_', '-')} {rest}") from error


def _check_pipeline(parallel: ParallelSection, model: "ModelConfig", pp: int) -> int:
    """Virtual stages per rank."""
    first, last = (
        parallel.decoder_first_pipeline_num_layers,
        parallel.decoder_last_pipeline_num_layers,
    )
    layers, per_virtual = model.num_layers, parallel.num_layers_per_virtual_pipeline_stage
    uneven = first is not None or last is not None
    if pp == 1:
        for flag, value in (
            ("decoder-first-pipeline-num-layers", first),
            ("decoder-last-pipeline-num-layers", last),
            ("num-layers-per-virtual-pipeline-stage", per_virtual),
        ):
            if value is not None:
                raise LayoutError(
                    f"--{flag} is {value}, but there is one pipeline stage; rule: it goes with "
                    "--pipeline-model-parallel-size 2 or more. Drop it or raise that."
                )
        return 1
    if uneven and per_virtual is not None:
        raise LayoutError(
            "--num-layers-per-virtual-pipeline-stage does not go with uneven stages "
            "(--decoder-first/last-pipeline-num-layers). Drop one of them."
        )
    if uneven:
        rest, stages = layers - (first or 0) - (last or 0), pp - (first is not None)
        stages -= last is not None
        fits = rest == 0 if stages == 0 else rest > 0 and rest % stages == 0
        if not fits or (first is not None and first < 1) or (last is not None and last < 1):
            raise LayoutError(
                f"Uneven stages (first {first}, last {last}) leave {rest} of {layers} layers for "
                f"{stages} stages; rule: the others share them equally, at least one each."
            )
        return 1
    if layers % pp:
        raise LayoutError(
            f"--pipeline-model-parallel-size is {pp}; rule: it divides the model's {layers} "
            f"layers. Choose one of {_divisors(layers)}, or set "
            "--decoder-first-pipeline-num-layers and --decoder-last-pipeline-num-layers."
        )
    if per_virtual is None:
        return 1
    if per_virtual < 1 or (layers // pp) % per_virtual:
        raise LayoutError(
            f"--num-layers-per-virtual-pipeline-stage is {per_virtual}; rule: it divides the "
            f"{layers // pp} layers of a stage. Choose one of {_divisors(layers // pp)}."
        )
    return layers // pp // per_virtual


def _check_sequence(model: "ModelConfig", tp: int, sequence_parallel: bool) -> None:
    if tp > 1 and not sequence_parallel:
        raise LayoutError(
            f"--no-sequence-parallel with --tensor-model-parallel-size {tp}: experts need each "
            "token on one rank only; rule: sequence parallelism goes with TP > 1. Drop the flag."
        )
    if sequence_parallel and model.seq_length % tp:
        raise LayoutError(
            f"--seq-length is {model.seq_length}, which sequence parallelism divides between "
            f"{tp} ranks; rule: a multiple of --tensor-model-parallel-size. Take "
            f"{-(-model.seq_length // tp) * tp}."
        )


def _microbatches(batch: int, micro_batch_size: int, dp: int, *, pp: int, vp: int) -> int:
    """Micro batches of a data-parallel rank in a step of `batch` sequences."""
    if batch % (micro_batch_size * dp):
        raise LayoutError(
            f"--global-batch-size is {batch}; rule: a multiple of --micro-batch-size "
            f"{micro_batch_size} x data-parallel size {dp} = {micro_batch_size * dp}."
        )
    num_microbatches = batch // (micro_batch_size * dp)
    if vp > 1 and num_microbatches % pp:
        raise LayoutError(
            f"{num_microbatches} micro batches a step with virtual pipeline stages; rule: a "
            f"multiple of --pipeline-model-parallel-size {pp}. Choose --global-batch-size as a "
            f"multiple of {micro_batch_size * dp * pp}."
        )
    return num_microbatches


def _check_world(world: int, *, tp: int, pp: int, ep: int, etp: int) -> None:
    if world % (tp * pp):
        raise LayoutError(
            f"There are {world} processes; rule: a multiple of TP {tp} x PP {pp} = {tp * pp}. "
            f"Start {-(-world // (tp * pp)) * tp * pp} processes or choose smaller sizes."
        )
    if world % (etp * ep * pp):
        raise LayoutError(
            f"There are {world} processes; rule: a multiple of ETP {etp} x EP {ep} x PP {pp} = "
            f"{etp * ep * pp}, as the experts divide the processes of each stage. Start more, or "
            "lower --expert-tensor-parallel-size (unset, it equals TP) or "
            "--expert-model-parallel-size."
        )


def _divisors(total: int) -> str:
    return ", ".join(str(size) for size in range(1, min(total, 64) + 1) if total % size == 0)
