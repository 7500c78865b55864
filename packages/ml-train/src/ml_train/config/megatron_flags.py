"""Flags of Megatron and ModelLink scripts that are not settings of ours: stated or refused.

A statement says something that is already decided, by the model or by this product; it is checked
and has no other effect. A refused flag would promise something that does not happen here, so it
ends the command with the reason and the way out. Everything else in those scripts is a field of
RunConfig under the same name. docs/from-modellink.md is rendered from these tables.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ml_train.errors import ConfigError

if TYPE_CHECKING:
    from ml_models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A flag that confirms a fact. `model_value` gives the fact, `agrees` compares."""

    takes_value: bool
    text: str
    """One sentence for --help and the table."""
    fact: Callable[["ModelConfig"], Any]
    """What holds for the model that was chosen."""
    agrees: Callable[[Any, Any], bool]
    """(value given, fact) -> whether they agree."""
    way_out: str = "Drop the flag, or choose another --model."


def _same_int(given: Any, fact: Any) -> bool:
    return float(given) == float(fact)


def _same_float(given: Any, fact: Any) -> bool:
    return math.isclose(float(given), float(fact), rel_tol=1e-6)


def _field(name: str, *, agrees: Callable[[Any, Any], bool] = _same_int) -> Statement:
    return Statement(
        takes_value=True,
        text=f"Confirms the model's {name}.",
        fact=lambda model: getattr(model, name, None),
        agrees=lambda given, fact: fact is not None and agrees(given, fact),
    )


def _fixed(value: str, text: str, way_out: str) -> Statement:
    return Statement(
        takes_value=True,
        text=text,
        fact=lambda model: value,
        agrees=lambda given, fact: _text_or_number(given) == _text_or_number(fact),
        way_out=way_out,
    )


def _holds(text: str, fact: Callable[["ModelConfig"], Any] = lambda model: True) -> Statement:
    return Statement(takes_value=False, text=text, fact=fact, agrees=lambda given, fact: bool(fact))


def _text_or_number(value: Any) -> Any:
    try:
        return float(value)
    except ValueError:
        return str(value).lower()


_OFF = "Off in any case: the layers here use no such fused kernel."

STATEMENTS: Mapping[str, Statement] = MappingProxyType(
    {
        "--use-mcore-models": _holds("Always so: models are megatron-core module specs."),
        "--disable-bias-linear": _holds("Always so: no linear layer of the models has a bias."),
        "--num-layers": _field("num_layers"),
        "--hidden-size": _field("hidden_size"),
        "--ffn-hidden-size": _field("ffn_hidden_size"),
        "--num-attention-heads": _field("num_attention_heads"),
        "--num-query-groups": _field("num_query_groups"),
        "--kv-channels": _field("kv_channels"),
        "--num-experts": _field("num_experts"),
        "--moe-router-topk": _field("moe_router_topk"),
        "--vocab-size": _field("vocab_size"),
        "--rotary-base": _field("rotary_base", agrees=_same_float),
        "--norm-epsilon": _field("norm_epsilon", agrees=_same_float),
        "--embedding-multiplier-scale": _field("embedding_multiplier_scale", agrees=_same_float),
        "--output-multiplier-scale": _field("output_multiplier_scale", agrees=_same_float),
        "--max-position-embeddings": Statement(
            takes_value=True,
            text="Confirms that rotary positions reach as far as the model's sequence length.",
            fact=lambda model: model.seq_length,
            agrees=lambda given, fact: int(given) >= int(fact),
            way_out="Raise it to the sequence length; rotary embeddings need no table.",
        ),
        "--group-query-attention": _holds(
            "Confirms that the model has fewer key/value groups than heads.",
            lambda model: model.num_query_groups < model.num_attention_heads,
        ),
        "--swiglu": Statement(
            takes_value=False,
            text="Confirms that the model's experts are gated by SiLU.",
            fact=lambda model: getattr(model, "activation", "silu"),
            agrees=lambda given, fact: fact == "silu",
            way_out="Drop the flag, or choose --model grok1-40b-guide, which has SiLU.",
        ),
        "--untie-embeddings-and-output-weights": Statement(
            takes_value=False,
            text="Confirms that the model has an output matrix of its own.",
            fact=lambda model: f"untied = {model.untie_embeddings_and_output_weights}",
            agrees=lambda given, fact: fact == "untied = True",
            way_out="Drop the flag, or choose --model grok1-40b-guide, which is untied.",
        ),
        "--post-norm": _holds(
            "Confirms that the model has norms after attention and experts as well (Grok-1).",
            lambda model: (
                getattr(model, "architecture", "") == "grok1"
                or hasattr(model, "embedding_multiplier_scale")
            ),
        ),
        "--input-jitter": _holds(
            "In ModelLink this flag turns the router's input noise OFF (it is store_false); "
            "the models here have none."
        ),
        "--normalization": _fixed(
            "RMSNorm", "Confirms RMSNorm, the only norm here.", "Drop the flag."
        ),
        "--position-embedding-type": _fixed(
            "rope", "Confirms rotary embeddings, the only kind here.", "Drop the flag."
        ),
        "--attention-dropout": _fixed(
            "0.0", "Confirms that there is no dropout.", "Only 0.0 is supported: Grok-1 has none."
        ),
        "--hidden-dropout": _fixed(
            "0.0", "Confirms that there is no dropout.", "Only 0.0 is supported: Grok-1 has none."
        ),
        "--transformer-impl": _fixed(
            "local",
            "Confirms the layers of this project.",
            "Only local is supported: nothing here needs TransformerEngine.",
        ),
        "--no-rope-fusion": _holds(_OFF),
        "--no-bias-dropout-fusion": _holds(_OFF),
        "--no-bias-swiglu-fusion": _holds(_OFF),
        "--no-gradient-accumulation-fusion": _holds(_OFF),
        "--no-masked-softmax-fusion": _holds(_OFF),
    }
)

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "--use-fused-rmsnorm": "there is no fused RMSNorm kernel here, and the result is the same "
        "without one; drop the flag.",
        "--use-fused-swiglu": "there is no fused SwiGLU kernel here, and the result is the same "
        "without one; drop the flag.",
        "--use-fused-rotary-pos-emb": "there is no fused rotary kernel here, and the result is the "
        "same without one; drop the flag.",
        "--use-flash-attn": "each model chooses its attention; Grok-1 caps its scores with tanh, "
        "which flash attention cannot do; drop the flag.",
        "--use-mc2": "merging matrix products with communication needs MindSpeed's kernels, which "
        "this project does not call; drop the flag, --sequence-parallel stays.",
        "--moe-permutation-async-comm": "overlapping token permutation with communication needs "
        "MindSpeed's dispatcher; tokens go by all-to-all here; drop the flag.",
        "--context-parallel-algo": "context parallelism is not supported; drop the flag and "
        "shorten --seq-length or raise --tensor-model-parallel-size instead.",
        "--fp16": "float16 needs loss scaling, which is not supported; use --bf16.",
        "--swap-attention": "activations are not swapped here; use --recompute-granularity full.",
        "--moe-token-dispatcher-type": "tokens always go by all-to-all; drop the flag.",
    }
)


def check_statements(given: Mapping[str, Any], model: "ModelConfig", name: str) -> None:
    """Raise ConfigError for every statement that contradicts the model, all in one message."""
    wrong = []
    for flag, value in given.items():
        statement = STATEMENTS[flag]
        fact = statement.fact(model)
        try:
            agrees = statement.agrees(value, fact)
        except ValueError:
            agrees = False
        if not agrees:
            said = f"{flag} {value}" if statement.takes_value else flag
            wrong.append(
                f"{said} contradicts the model {name}, which has {fact}. {statement.way_out}"
            )
    if wrong:
        raise ConfigError("\n".join(wrong))
