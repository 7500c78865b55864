"""Mixtral in the arguments of Megatron's checkpoints.

Megatron has no argument that names an architecture. A run without the guide's --post-norm is taken
for Mixtral's, and the features below are compared with its other arguments.
"""

from collections.abc import Mapping

from ml_models.architecture import Settings
from ml_models.formats.megatron.args import NEEDED_WITH_EXPERTS
from ml_models.mixtral.config import MixtralConfig

NEEDED = NEEDED_WITH_EXPERTS


def describes(settings: Settings) -> bool:
    """Whether a run trained Mixtral, as far as its arguments tell."""
    return not settings.get("post_norm")


def derive(_: Settings, sizes: Mapping[str, object]) -> MixtralConfig:
    """Mixtral of these sizes: it has no other choices."""
    return MixtralConfig(**sizes)  # type: ignore[arg-type]


def features(model: MixtralConfig) -> dict[str, object]:
    """What Mixtral computes, by the names that formats/megatron/args.py compares."""
    return {
        "activation": "silu",
        "post_norms": False,
        "attention_logit_cap": None,
        "attention_scale": model.kv_channels**-0.5,
        "renormalize_topk": model.gates_sum_to_one,
        "embedding_multiplier_scale": 1.0,
        "output_multiplier_scale": 1.0,
    }
