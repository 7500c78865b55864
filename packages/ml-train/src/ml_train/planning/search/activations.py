"""Bytes of the passes of a rank, from small ranks that were built and run.

What a layer keeps of a micro batch depends on TP, EP, ETP and the micro batch size, and not on the
other sizes. A rank with a single layer is run with two micro batches for each of these shapes, and
gives two figures:

    kept       what a micro batch leaves of the layer for its backward pass
    working    what the passes need beyond that, at most

From them the peak of a stage is linear in its layers and in the micro batches in flight:

    (in flight - 1) (layers * kept + input) + layers * kept + working

Full recomputation keeps a layer's input in place of the layer, and works on a whole unit of
layers. A micro batch size above 2 follows linearly from 1 and 2. The search builds the best layouts
afterwards, so that this estimate only decides which; tests/planning/search holds it to built ranks.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_train.config.run import RunConfig
from ml_train.parallel.layout import Layout, make_layout
from ml_train.planning.meta_platform import MetaPlatform
from ml_train.planning.rank_plan import RankPlan, plan_rank
from ml_train.planning.search.space import Candidate
from ml_train.planning.search.state_bytes import layers_of_stage

if TYPE_CHECKING:
    from ml_models.config import ModelConfig

_MEASURED = (1, 2)
"""Micro batch sizes that are run."""


@dataclass(frozen=True)
class _Shape:
    """What a layer's bytes depend on, for a micro batch of one sequence more or less."""

    tp: int
    ep: int
    etp: int


@dataclass(frozen=True)
class _LayerBytes:
    """The two figures at a micro batch size."""

    kept: float
    working: float


class Activations:
    """Estimates for layouts of one model, with a memory of what was run."""

    def __init__(self, config: RunConfig, model: "ModelConfig", platform: MetaPlatform) -> None:
        """Inside the platform's context, as long as estimates are asked for."""
        self._config, self._model, self._platform = config, model, platform
        self._layers: dict[tuple[_Shape, int], _LayerBytes] = {}
        self._last: dict[tuple[_Shape, int], float] = {}

    def estimate(self, candidate: Candidate, stage: int) -> int:
        """Most bytes beyond what a rank of `stage` holds between steps, in the passes."""
        layout, size = candidate.layout, candidate.config.training.micro_batch_size
        shape = _Shape(layout.tp, layout.ep, layout.etp)
        working_of_loss = 0.0
        if stage == layout.pp - 1:
            working_of_loss = self._working_of_loss(shape, size)
        return self._peak(candidate, stage, self._at(shape, size), working_of_loss)

    def at_least(self, candidate: Candidate, stage: int) -> int:
        """A lower bound of the estimate, for which a single rank per TP is run.

        A layer whose experts are dealt to most ranks and not divided keeps least, and what a micro
        batch keeps grows with its sequences. What the passes need beyond that is left out: it can
        be less in every other shape.
        """
        layout, size = candidate.layout, candidate.config.training.micro_batch_size
        layer = self._measured(_Shape(layout.tp, self._model.num_experts, 1), 1)
        smallest = _LayerBytes(kept=layer.kept * size, working=0.0)
        # The figures that the bound starts from are measured, too: a twentieth of safety.
        return round(0.95 * self._peak(candidate, stage, smallest, 0.0))

    def _peak(
        self, candidate: Candidate, stage: int, layer: _LayerBytes, working_of_loss: float
    ) -> int:
        config, layout = candidate.config, candidate.layout
        layers = layers_of_stage(config, self._model, layout, stage)[-1]
        entering = self._input(layout, config.training.micro_batch_size)
        kept, unit = _recomputed(config, layers, layer.kept, entering)
        running = chunks_in_flight(layout, stage)
        # At the loss no layer is computed again yet.
        working = max(unit + layer.working, working_of_loss)
        return round((running - 1) * (kept + entering) + kept + working)

    def _at(self, shape: _Shape, size: int) -> _LayerBytes:
        """The figures at a micro batch size, measured at 1 or 2 or on the line through them."""
        if size in _MEASURED:
            return self._measured(shape, size)
        small, large = (self._measured(shape, number) for number in _MEASURED)
        return _LayerBytes(
            kept=_on_line(small.kept, large.kept, size),
            working=_on_line(small.working, large.working, size),
        )

    def _measured(self, shape: _Shape, size: int) -> _LayerBytes:
        key = (shape, size)
        if key not in self._layers:
            plan = self._run(shape, size, 0, 2)
            kept = plan.kept - self._input(self._probe(shape, size)[1], size)
            # The peak holds both micro batches, of the earlier with its input.
            working = plan.activations - plan.kept - kept
            self._layers[key] = _LayerBytes(kept=kept, working=working)
        return self._layers[key]

    def _working_of_loss(self, shape: _Shape, size: int) -> float:
        """What the last stage needs beyond what its layers keep, at most."""
        values = []
        for number in _MEASURED if size not in _MEASURED else (size,):
            key = (shape, number)
            if key not in self._last:
                kept = self._measured(shape, number).kept
                self._last[key] = self._run(shape, number, 1, 1).activations - kept
            values.append(self._last[key])
        return values[0] if len(values) == 1 else _on_line(values[0], values[1], size)

    def _run(self, shape: _Shape, size: int, stage: int, num_microbatches: int) -> RankPlan:
        config, layout = self._probe(shape, size)
        return plan_rank(
            config,
            self._model.replace(num_layers=2),
            layout,
            stage * layout.world // 2,
            platform=self._platform,
            num_microbatches=num_microbatches,
        )

    def _probe(self, shape: _Shape, size: int) -> tuple[RunConfig, Layout]:
        """A run of two stages of a layer each, without recomputation."""
        world = 2 * math.lcm(shape.tp, shape.ep * shape.etp)
        batch = 2 * size * world // (2 * shape.tp)
        parallel = dataclasses.replace(
            self._config.parallel,
            tensor_model_parallel_size=shape.tp,
            pipeline_model_parallel_size=2,
            num_layers_per_virtual_pipeline_stage=None,
            decoder_first_pipeline_num_layers=None,
            decoder_last_pipeline_num_layers=None,
            expert_model_parallel_size=shape.ep,
            expert_tensor_parallel_size=shape.etp,
        )
        training = dataclasses.replace(
            self._config.training,
            micro_batch_size=size,
            global_batch_size=batch,
            recompute_granularity=None,
            recompute_method=None,
            recompute_num_layers=None,
        )
        layout = make_layout(
            parallel,
            self._model.replace(num_layers=2),
            world_size=world,
            micro_batch_size=size,
            global_batch_size=batch,
        )
        config = dataclasses.replace(self._config, parallel=parallel, training=training)
        return config, layout

    def _input(self, layout: Layout, size: int) -> float:
        """The hidden states that enter a stage, of this rank's part of the sequence."""
        numbers = size * self._model.seq_length / layout.tp * self._model.hidden_size
        return numbers * self._config.training.parameter_bytes


def chunks_in_flight(layout: Layout, stage: int) -> int:
    """Virtual stages of micro batches whose backward pass is to come, at most, on a rank.

    megatron-core's schedules: without virtual stages a rank runs pp - 1 - stage forward passes
    ahead of its first backward pass, with them 2 (pp - 1 - stage) and pp more for each further
    virtual stage (pipeline_parallel/schedules.py, get_pp_rank_microbatches).
    """
    ahead = layout.pp - 1 - stage
    if layout.vp > 1:
        ahead = 2 * ahead + (layout.vp - 1) * layout.pp
    return min(ahead + 1, layout.num_microbatches * layout.vp)


def _recomputed(
    config: RunConfig, layers: int, kept: float, entering: float
) -> tuple[float, float]:
    """What the layers of a chunk keep of a micro batch, and what one backward pass adds to it."""
    training = config.training
    if training.recompute_granularity != "full":
        return layers * kept, 0.0
    number = min(training.recompute_num_layers or 1, layers)
    if training.recompute_method == "block":
        return number * entering + (layers - number) * kept, kept if layers == number else 0.0
    units = -(-layers // number)
    # The backward pass holds the layers of the unit, and its gradient, beside the inputs.
    return units * entering, number * kept + (entering if units > 1 else 0.0)


def _on_line(first: float, second: float, size: int) -> float:
    return first + (second - first) * (size - 1)
