"""The same kind of job at toy width: its layout on a few processes, its model in a few layers.

A size above 1 becomes 2, so that every kind of parallelism of the job stays: TP8 PP4 EP8 ETP8 DP16
becomes TP2 PP2 EP2 ETP2. Where that needs more processes than this machine may start, the copies
of the data go first, then ETP, the pipeline, and the experts.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_train.config.run import RunConfig
from ml_train.config.sections.checkpoint import CheckpointSection
from ml_train.config.sections.kernels import KernelsSection
from ml_train.config.sections.logging import LoggingSection
from ml_train.config.sections.model import ModelSection
from ml_train.config.sections.parallel import ParallelSection
from ml_train.config.sections.training import TrainingSection
from ml_train.diagnosis.runs import on_some_data, smallest_world
from ml_train.errors import LayoutError
from ml_train.parallel.layout import Layout
from ml_train.planning.legality import layout_of

if TYPE_CHECKING:
    from ml_models.config import ModelConfig

SEQUENCE_LENGTH = 64
STEPS = 200
"""Of the run that is killed: more than it comes to."""
_WIDTH, _HEADS, _KEY_GROUPS, _HEAD_SIZE, _EXPERTS, _VOCABULARY = 64, 4, 2, 16, 4, 512


@dataclass(frozen=True, kw_only=True)
class ToyJob:
    """A job that this machine can run."""

    config: RunConfig
    layout: Layout


def toy_job(
    config: RunConfig, model: "ModelConfig", layout: Layout, *, most_processes: int
) -> ToyJob:
    """The largest folding of `layout` that needs at most `most_processes`.

    Data and tokenizer stay as they are; without any the tokens are made up.
    """
    for parallel, copies in _foldings(config.parallel, layout):
        folded = _folded(config, model, parallel)
        world = smallest_world(folded) * copies
        if world > most_processes:
            continue
        small = folded.model.resolve().replace(seq_length=SEQUENCE_LENGTH)
        # A step has two micro batches for every stage, whatever the layout.
        batch = 2 * (world // parallel.tensor_model_parallel_size)
        training = dataclasses.replace(folded.training, global_batch_size=batch)
        folded = dataclasses.replace(folded, training=training)
        try:
            return ToyJob(config=folded, layout=layout_of(folded, small, world))
        except LayoutError:
            continue
    raise LayoutError(
        f"No folding of the layout runs on {most_processes} processes: give a larger "
        "--toy-processes, or --no-toy-run."
    )


def _foldings(parallel: ParallelSection, layout: Layout) -> Iterator[tuple[ParallelSection, int]]:
    """(sizes, copies of the data) from the nearest to the job to the smallest."""
    tp, pp, ep, etp = (min(size, 2) for size in (layout.tp, layout.pp, layout.ep, layout.etp))
    sizes = [
        (tp, pp, ep, etp),
        (tp, pp, ep, 1),
        (tp, 1, ep, 1),
        (tp, 1, 1, 1),
        (1, pp, 1, 1),
        (1, 1, 1, 1),
    ]
    for own_tp, own_pp, own_ep, own_etp in sizes:
        folded = dataclasses.replace(
            _few_stages(parallel, layout, own_pp),
            tensor_model_parallel_size=own_tp,
            expert_model_parallel_size=own_ep,
            expert_tensor_parallel_size=own_etp,
            distributed_backend=None,
        )
        # A data-parallel run on a process would leave out the reduction of gradients.
        if layout.dp > 1:
            yield folded, 2
        yield folded, 1


def _few_stages(parallel: ParallelSection, layout: Layout, pp: int) -> ParallelSection:
    """Virtual and uneven stages, in the numbers of layers that _layers() gives."""
    first = parallel.decoder_first_pipeline_num_layers
    last = parallel.decoder_last_pipeline_num_layers
    if pp == 1:
        first = last = None
    return dataclasses.replace(
        parallel,
        pipeline_model_parallel_size=pp,
        num_layers_per_virtual_pipeline_stage=1 if pp > 1 and layout.vp > 1 else None,
        decoder_first_pipeline_num_layers=first and 1,
        decoder_last_pipeline_num_layers=last and (2 if first else 1),
    )


def _layers(parallel: ParallelSection) -> int:
    pp = parallel.pipeline_model_parallel_size
    if parallel.decoder_first_pipeline_num_layers or parallel.decoder_last_pipeline_num_layers:
        return 3
    return 2 * pp if parallel.num_layers_per_virtual_pipeline_stage else max(pp, 2)


def _folded(config: RunConfig, model: "ModelConfig", parallel: ParallelSection) -> RunConfig:
    """`config` with a small model, few short steps, and no folder of the user's."""
    training, optimizer = config.training, config.optimizer
    return on_some_data(
        dataclasses.replace(
            config,
            parallel=parallel,
            model=_small_model(config.model, model, parallel, keep_vocabulary=config.data.is_given),
            training=_short(training),
            optimizer=dataclasses.replace(
                optimizer,
                lr_decay_iters=None,
                lr_warmup_iters=min(optimizer.lr_warmup_iters, 2),
                lr_warmup_fraction=None,
            ),
            # The CPU has its own forms of kernels.
            kernels=KernelsSection(),
            checkpoint=CheckpointSection(async_save=config.checkpoint.async_save),
            logging=LoggingSection(),
        )
    )


def _short(training: TrainingSection) -> TrainingSection:
    return dataclasses.replace(
        training,
        seq_length=SEQUENCE_LENGTH,
        micro_batch_size=1,
        train_iters=STEPS,
        eval_interval=STEPS,
        eval_iters=min(training.eval_iters, 1),
        exit_interval=None,
        exit_duration_in_mins=None,
        device="cpu",
        recompute_num_layers=training.recompute_num_layers and 1,
    )


def _small_model(
    section: ModelSection, model: "ModelConfig", parallel: ParallelSection, *, keep_vocabulary: bool
) -> ModelSection:
    """The same architecture with its switches, and every size small."""
    num_experts = min(model.num_experts, _EXPERTS)
    same = model.num_query_groups == model.num_attention_heads
    changes: dict[str, object] = {
        "num_layers": _layers(parallel),
        "hidden_size": _WIDTH,
        "num_attention_heads": _HEADS,
        "num_query_groups": _HEADS if same else _KEY_GROUPS,
        "kv_channels": _HEAD_SIZE,
        "num_experts": num_experts,
        "moe_router_topk": min(model.moe_router_topk, num_experts),
    }
    # An expert's width, and that of a dense MLP beside the experts where there is one.
    names = [field.name for field in dataclasses.fields(model)]
    changes |= {name: _WIDTH for name in names if name.endswith("ffn_hidden_size")}
    if not keep_vocabulary:
        changes["vocab_size"] = _VOCABULARY
    overrides = {**section.overrides(), **changes}
    words = tuple(f"{name}={json.dumps(value)}" for name, value in overrides.items())
    # torch.compile needs a compiler, which the cluster has and a laptop may lack.
    return dataclasses.replace(section, model_override=words, execution="eager")
