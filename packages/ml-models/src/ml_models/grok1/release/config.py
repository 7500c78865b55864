"""The settings of xAI's run.py as JSON, read and written, and what its program fixes in code.

xAI's program reads no configuration file; the keys here are the fields of its run.py. What it
cannot be told (the activation, another cap) is kept under a key of its own, see
formats/own_settings.py.
"""

from collections.abc import Mapping

from ml_models.errors import WeightError
from ml_models.formats.own_settings import KEY, with_own_settings
from ml_models.grok1.config import Grok1Config, ffn_hidden_size

CONFIG_NAME = "xai_config.json"
MODEL_FIELDS = {
    "num_layers": "num_layers",
    "hidden_size": "emb_size",
    "num_attention_heads": "num_q_heads",
    "num_query_groups": "num_kv_heads",
    "kv_channels": "key_size",
    "num_experts": "num_experts",
    "moe_router_topk": "num_selected_experts",
    "attention_scale": "attn_output_multiplier",
}
FIELDS = {
    "vocab_size": "vocab_size",
    "seq_length": "sequence_len",
    "embedding_multiplier_scale": "embedding_multiplier_scale",
    "output_multiplier_scale": "output_multiplier_scale",
}
IN_CODE = {
    "activation": "gelu_tanh",
    "attention_logit_cap": 30.0,
    "renormalize_topk": False,
    "norm_epsilon": 1e-5,
    "rotary_base": 10000.0,
}
"""What xAI's model.py fixes and a Grok1Config can change."""
NUM_EXPERTS_IN_CODE = 8


def from_xai(values: Mapping[str, object], where: str) -> Grok1Config:
    """A model from {"vocab_size", "sequence_len", "model": {...}, ...}."""
    model = values.get("model")
    if not isinstance(model, Mapping):
        raise WeightError(f"{where}: no configuration of xAI's kind (no object 'model').")
    try:
        ffn = ffn_hidden_size(model["widening_factor"], model["emb_size"])
        if values.get("ffn_size", ffn) != ffn:
            raise WeightError(
                f"{where}: ffn_size is {values['ffn_size']}; widening_factor makes it {ffn}."
            )
        fields = {
            **{field: model[key] for field, key in MODEL_FIELDS.items()},
            **{field: values[key] for field, key in FIELDS.items()},
            "ffn_hidden_size": ffn,
        }
        config = Grok1Config.of(fields)
    except (KeyError, TypeError) as error:
        raise WeightError(f"{where}: no configuration of xAI's kind ({error}).") from error
    return with_own_settings(config, values, fields, where)


def to_xai(config: Grok1Config, model_axis: int) -> dict[str, object]:
    """The settings for run.py; `model_axis`: processes that share a matrix, a scale group each."""
    return {
        "vocab_size": config.vocab_size,
        "pad_token": 0,
        "eos_token": 2,
        "sequence_len": config.seq_length,
        "embedding_init_scale": 1.0,
        "output_multiplier_scale": config.output_multiplier_scale,
        "embedding_multiplier_scale": config.embedding_multiplier_scale,
        "model": {
            **{key: getattr(config, field) for field, key in MODEL_FIELDS.items()},
            "widening_factor": widening_factor(config.ffn_hidden_size, config.hidden_size),
            "shard_activations": True,
            "data_axis": "data",
            "model_axis": "model",
        },
        "local_mesh_config": [1, model_axis],
        "between_hosts_config": [1, 1],
        "ffn_size": config.ffn_hidden_size,
        KEY: config.to_dict(),
    }


def widening_factor(ffn: int, hidden: int) -> float:
    """The simplest factor from which xAI's rule makes the width `ffn`. Raises WeightError."""
    # The rule rounds two thirds of factor * hidden up to a multiple of 8, so that many factors give
    # the same width. Whole numbers are tried first, then halves, quarters and so on.
    denominator = 1
    while denominator <= 2**20:
        # The smallest numerator that the rule may bring to `ffn`, and the next one.
        numerator = max(1, -(-(ffn - 8) * 3 * denominator // (2 * hidden)))
        for factor in (numerator / denominator, (numerator + 1) / denominator):
            if ffn_hidden_size(factor, hidden) == ffn:
                return factor
        denominator *= 2
    raise WeightError(
        f"ffn_hidden_size is {ffn}; xAI's program takes multiples of 8 there, as it rounds up to "
        "one what its widening_factor makes."
    )


def refuse_what_has_no_place(config: Grok1Config) -> None:
    """WeightError for a model whose weights the release's leaves cannot hold."""
    if config.untie_embeddings_and_output_weights:
        raise WeightError(
            "--to xai: the model has an output layer of its own; the release has no leaf for it, "
            "as its program multiplies by the embedding."
        )
    if not config.post_norms:
        raise WeightError(
            "--to xai: post_norms is False; the release has four norms in every layer and its "
            "program applies them all."
        )
    widening_factor(config.ffn_hidden_size, config.hidden_size)


def warnings(config: Grok1Config, model_axis: int) -> list[str]:
    """What whoever runs xAI's program on the folder must know."""
    notes = [
        f"for xAI's program: put the values of {CONFIG_NAME} into its run.py; its mesh must be "
        f"(1, {model_axis}), as the scales of o_proj and linear_1 have {model_axis} "
        f"group{'s' if model_axis != 1 else ''}"
    ]
    differences = [
        f"{name} is {_named(getattr(config, name))} (there {value})"
        for name, value in IN_CODE.items()
        if getattr(config, name) != value
    ]
    if differences:
        notes.append(
            f"WARNING: xAI's code gives other numbers from this folder: {', '.join(differences)}; "
            f"ml-models reads the model's settings from the key ml_models of {CONFIG_NAME}."
        )
    if config.num_experts != NUM_EXPERTS_IN_CODE:
        notes.append(
            f"WARNING: xAI's code runs with {NUM_EXPERTS_IN_CODE} experts only, a number that its "
            f"model.py spells out; this model has {config.num_experts}."
        )
    return notes


def _named(value: object) -> str:
    return "none" if value is None else str(value)
