"""Run a model on a reference's tokens, in fp32 on one CPU process, and compare every number."""

from collections.abc import Mapping
from importlib import import_module

from torch import Tensor

from ml_models import registry, shards
from ml_models.build import build_model, make_transformer_config
from ml_models.comparison.measure import LazyWeights, measure, named_gradients
from ml_models.comparison.one_process import one_process
from ml_models.comparison.reference import check_sizes, has_gradients, has_loss
from ml_models.comparison.report import Comparison, report
from ml_models.platforms import make_core_importable
from ml_models.weights.source import Source


def compare(source: Source, reference: Mapping[str, Tensor], tolerance: float) -> Comparison:
    """Differences per group; "passed" says whether the logits are within `tolerance`."""
    model_config = source.model
    ids = reference["input_ids"].long()
    check_sizes(ids, reference["logits"], model_config.vocab_size)
    make_core_importable()
    # megatron-core compiles functions when it is imported, and torch's compiler then lists
    # functions of torch. Inside the platform's context it would list replaced ones.
    import_module("ml_models.layers.model")
    registry.architecture(model_config).spec()
    with one_process():
        config = make_transformer_config(model_config, perform_initialization=False)
        model = build_model(
            model_config,
            config,
            padded_vocab_size=model_config.vocab_size,
            pre_process=True,
            post_process=True,
        )
        shards.assign(model, LazyWeights(source))
        measured = measure(model, ids, wants_loss=has_loss(reference))
        if has_gradients(reference):
            gradients = {shard.key: shard.data.grad for shard in shards.local_shards(model)}
            measured.update(named_gradients(model_config, gradients, reference))
    return report(measured, reference, tolerance)
