"""Every legal layout of a number of devices, with micro batch sizes and recomputation.

Each combination of sizes is asked of make_layout, which training asks as well: what is legal is
written nowhere else. The combinations are counted first, so that a space too large for a search is
refused at once.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_train.config.run import RunConfig
from ml_train.config.sections.parallel import ParallelSection
from ml_train.config.sections.training import TrainingSection
from ml_train.errors import ConfigError, LayoutError
from ml_train.parallel.layout import Layout, make_layout
from ml_train.planning.legality import divisors, words

if TYPE_CHECKING:
    from ml_models.config import ModelConfig

SIZES = ("tp", "pp", "vp", "ep", "etp", "micro-batch", "recompute")
"""What a search may vary. Data parallelism is what is left of the devices."""

LARGEST_SPACE = 200_000
"""Combinations: a minute of asking make_layout and of closed forms on a laptop's core."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A legal layout with its configuration."""

    config: RunConfig
    layout: Layout

    @property
    def title(self) -> str:
        """Such as TP4 PP2 EP2 ETP4 DP2 MBS1 full."""
        training = self.config.training
        recomputed = training.recompute_granularity
        uneven = stage_ends(self.config.parallel)
        ends = "" if uneven == (None, None) else f" ends {uneven[0]}/{uneven[1]}"
        return (
            f"{words(self.layout)}{ends} MBS{training.micro_batch_size}"
            f"{f' {recomputed}' if recomputed else ''}"
        )


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is combined."""

    world: int
    devices_per_node: int
    vary: Collection[str] = SIZES
    """Names of SIZES; the others stay as the configuration has them."""


def candidates(
    config: RunConfig,
    model: "ModelConfig",
    space: Space,
    *,
    refused: Callable[[str], None] | None = None,
) -> Iterator[Candidate]:
    """The legal combinations. Raises ConfigError for a configuration that cannot be searched.

    refused: is told the message of every combination that is not legal.
    """
    if config.training.global_batch_size is None:
        raise ConfigError(
            "--search without --global-batch-size: the batch would be another for every layout; "
            "rule: layouts are compared at one batch. Give the flag."
        )
    parallels = _parallel_sections(config.parallel, model, space)
    trainings = _training_sections(config.training, space)
    if len(parallels) * len(trainings) > LARGEST_SPACE:
        raise ConfigError(
            f"--search has {len(parallels) * len(trainings):,} combinations for {space.world} "
            f"devices; rule: at most {LARGEST_SPACE:,}. Name fewer sizes behind --search, such "
            "as --search tp pp ep."
        )
    for parallel in parallels:
        for training in trainings:
            try:
                layout = make_layout(
                    parallel,
                    model,
                    world_size=space.world,
                    micro_batch_size=training.micro_batch_size,
                    global_batch_size=training.global_batch_size,
                )
                changed = dataclasses.replace(config, parallel=parallel, training=training)
                changed.check()
            except (LayoutError, ConfigError) as error:
                if refused is not None:
                    refused(str(error))
                continue
            yield Candidate(config=changed, layout=layout)


def stage_ends(parallel: ParallelSection) -> tuple[int | None, int | None]:
    """Layers of the first and of the last stage, where they differ from the others'."""
    return parallel.decoder_first_pipeline_num_layers, parallel.decoder_last_pipeline_num_layers


def _parallel_sections(
    given: ParallelSection, model: "ModelConfig", space: Space
) -> list[ParallelSection]:
    """Sizes that divide what they have to divide; make_layout knows the other rules."""
    sections = []
    for tp in _tensor_sizes(given, model, space):
        for pp in _pipeline_sizes(given, model, space, tp):
            for stages in _stages(given, model, space, pp):
                for ep, etp in _expert_sizes(given, model, space, tp, pp):
                    sections.append(
                        dataclasses.replace(
                            stages,
                            tensor_model_parallel_size=tp,
                            pipeline_model_parallel_size=pp,
                            expert_model_parallel_size=ep,
                            expert_tensor_parallel_size=etp,
                        )
                    )
    return sections


def _tensor_sizes(given: ParallelSection, model: "ModelConfig", space: Space) -> list[int]:
    if "tp" not in space.vary:
        return [given.tensor_model_parallel_size]
    return [size for size in divisors(model.num_query_groups) if space.world % size == 0]


def _pipeline_sizes(
    given: ParallelSection, model: "ModelConfig", space: Space, tp: int
) -> list[int]:
    if "pp" not in space.vary:
        return [given.pipeline_model_parallel_size]
    return divisors(space.world // tp, at_most=model.num_layers)


def _stages(
    given: ParallelSection, model: "ModelConfig", space: Space, pp: int
) -> list[ParallelSection]:
    """How the layers are dealt: evenly, in virtual stages, and unevenly as the run has it."""
    even = dataclasses.replace(
        given,
        num_layers_per_virtual_pipeline_stage=None,
        decoder_first_pipeline_num_layers=None,
        decoder_last_pipeline_num_layers=None,
    )
    if pp == 1:
        return [even]
    layers = model.num_layers // pp
    per_stage = given.num_layers_per_virtual_pipeline_stage
    sizes = divisors(layers) if "vp" in space.vary else [per_stage] if per_stage else []
    choices = [even]
    for size in sizes:
        # A virtual stage of all layers of a stage is the schedule without virtual stages.
        if size < layers:
            choices.append(dataclasses.replace(even, num_layers_per_virtual_pipeline_stage=size))
    first, last = stage_ends(given)
    if (first, last) != (None, None):
        choices.append(
            dataclasses.replace(
                even,
                decoder_first_pipeline_num_layers=first,
                decoder_last_pipeline_num_layers=last,
            )
        )
    return choices


def _expert_sizes(
    given: ParallelSection, model: "ModelConfig", space: Space, tp: int, pp: int
) -> list[tuple[int, int]]:
    """Expert parallel sizes, with tensor parallelism of experts up to a node or to TP."""
    stage = space.world // (tp * pp) * tp
    eps = [given.expert_model_parallel_size]
    if "ep" in space.vary:
        eps = [size for size in divisors(model.num_experts) if stage % size == 0]
    if "etp" not in space.vary or not model.has_router:
        etp = given.expert_tensor_parallel_size if "etp" not in space.vary else tp
        return [(ep, tp if etp is None else etp) for ep in eps]
    largest = max(tp, space.devices_per_node)
    return [
        (ep, etp)
        for ep in eps
        for etp in divisors(stage // ep, at_most=largest)
        if model.ffn_hidden_size % etp == 0
    ]


def _training_sections(given: TrainingSection, space: Space) -> list[TrainingSection]:
    micro_batches = [given.micro_batch_size]
    if "micro-batch" in space.vary:
        assert given.global_batch_size is not None
        micro_batches = divisors(given.global_batch_size)
    forms = [given]
    if "recompute" in space.vary:
        none = dataclasses.replace(
            given, recompute_granularity=None, recompute_method=None, recompute_num_layers=None
        )
        full = dataclasses.replace(
            none,
            recompute_granularity="full",
            recompute_method="uniform",
            recompute_num_layers=1,
        )
        forms = [none, dataclasses.replace(none, recompute_granularity="selective"), full]
        if given not in forms:
            forms.append(given)
    return [
        dataclasses.replace(form, micro_batch_size=size) for size in micro_batches for form in forms
    ]


def nearest_worlds(config: RunConfig, model: "ModelConfig", space: Space) -> list[int]:
    """Numbers of devices below and above that have a legal layout, where there are such."""
    assert config.training.global_batch_size is not None
    # More devices than this have no sequence to work on.
    largest = model.num_query_groups * model.num_layers * config.training.global_batch_size
    below = range(min(space.world - 1, largest), 0, -1)
    above = range(space.world + 1, min(2 * space.world, largest) + 1)
    worlds = []
    for sizes in (below, above):
        for world in sizes:
            smaller = dataclasses.replace(space, world=world)
            if next(candidates(config, model, smaller), None) is not None:
                worlds.append(world)
                break
    return worlds
