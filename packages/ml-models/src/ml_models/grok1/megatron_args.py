"""Grok-1 in the arguments of Megatron's checkpoints: the model of ModelLink's guide.

The guide's --post-norm tells its runs from Mixtral's.
"""

from collections.abc import Mapping

from ml_models.architecture import Settings
from ml_models.formats.megatron.args import NEEDED_WITH_EXPERTS, number_of, renormalizes
from ml_models.grok1.config import Grok1Config, grok1_40b_guide

NEEDED = NEEDED_WITH_EXPERTS
FEATURES = (
    *("activation", "post_norms", "attention_logit_cap", "attention_scale", "renormalize_topk"),
    *("embedding_multiplier_scale", "output_multiplier_scale"),
)


def describes(settings: Settings) -> bool:
    """Whether a run trained the guide's Grok-1, as far as its arguments tell."""
    return bool(settings.get("post_norm"))


def derive(settings: Settings, sizes: Mapping[str, object]) -> Grok1Config:
    """The guide's model with the sizes, multipliers and gates of the arguments."""
    # Megatron scales the scores by the head size and has no soft cap, as the guide's model.
    model = grok1_40b_guide().replace(**sizes)
    return model.replace(
        attention_scale=model.kv_channels**-0.5,
        renormalize_topk=renormalizes(settings) is True,
        embedding_multiplier_scale=number_of(settings, "embedding_multiplier_scale", 1.0, "args"),
        output_multiplier_scale=number_of(settings, "output_multiplier_scale", 1.0, "args"),
    )


def features(model: Grok1Config) -> dict[str, object]:
    """What the model computes, by the names that formats/megatron/args.py compares."""
    return {name: getattr(model, name) for name in FEATURES}
