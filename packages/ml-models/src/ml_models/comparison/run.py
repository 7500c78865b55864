"""Run a model on a reference's tokens, in fp32 on one CPU process, and compare every number."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ml_models import shards
from ml_models.bring_up import start_platform
from ml_models.comparison.measure import LazyWeights, measure, named_gradients
from ml_models.comparison.reference import check_sizes, has_gradients, has_loss
from ml_models.comparison.report import Comparison, report
from ml_models.errors import MlModelsError
from ml_models.weights.source import Source


def compare(source: Source, reference: Mapping[str, Tensor], tolerance: float) -> Comparison:
    """Differences per group; "passed" says whether the logits are within `tolerance`.

    Raises MlModelsError in a process that belongs to a group of several, WeightError where the
    reference is of a model of other sizes.
    """
    config, ids = source.model, reference["input_ids"].long()
    check_sizes(ids, reference["logits"], config.vocab_size)
    joined = torch.distributed.is_initialized()
    if joined and torch.distributed.get_world_size() != 1:
        raise MlModelsError("compare runs in one process; it was started in a group of several.")
    platform = start_platform("cpu")
    # It imports megatron-core, which the platform adapts first.
    from ml_models.single_process import process_group, whole_model

    with (
        process_group(platform),
        whole_model(config, platform, padded_vocab_size=config.vocab_size) as model,
    ):
        shards.assign(model, LazyWeights(source))
        measured = measure(model, ids, wants_loss=has_loss(reference))
        if has_gradients(reference):
            gradients = {shard.key: shard.data.grad for shard in shards.local_shards(model)}
            measured.update(named_gradients(config, gradients, reference))
    return report(measured, reference, tolerance)
