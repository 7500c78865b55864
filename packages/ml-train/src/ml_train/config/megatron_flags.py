"""Flags of Megatron and ModelLink scripts that are no settings here: stated or refused.

A statement says something that the model or this product has already decided. It is checked and
has no other effect. A refused flag would promise something that does not happen here, so it ends
the command with the reason and the way out. Every other flag of those scripts is a setting under
the same name. tools/migration_tables.py makes the tables of docs/from-modellink.md from this file.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ml_models.config import ModelConfig
from ml_train.errors import ConfigError

Given = str | bool
"""The value of a statement; True where the flag takes none."""

Fact = str | int | float | None
"""What holds for a model; None where the model has no such field."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A flag that confirms a fact: `fact` gives it, `agrees` compares."""

    takes_value: bool
    text: str
    """One sentence for --help and the table."""
    fact: Callable[[ModelConfig], Fact]
    """What holds for the model that was chosen."""
    agrees: Callable[[Given, Fact], bool]
    """Whether the value and the fact agree. Raises ValueError for a value that is no number."""
    way_out: str = "Drop the flag, or choose another --model."


def _same_number(given: Given, fact: Fact) -> bool:
    return fact is not None and float(given) == float(fact)


def _close_number(given: Given, fact: Fact) -> bool:
    return fact is not None and math.isclose(float(given), float(fact), rel_tol=1e-6)


def _same_text(given: Given, fact: Fact) -> bool:
    return _text_or_number(given) == _text_or_number(fact)


def _is_true(_given: Given, fact: Fact) -> bool:
    return bool(fact)


def _text_or_number(value: Given | Fact) -> str | float:
    try:
        return float(str(value))
    except ValueError:
        return str(value).lower()


def _field(name: str, *, agrees: Callable[[Given, Fact], bool] = _same_number) -> Statement:
    return Statement(
        takes_value=True,
        text=f"Confirms the model's {name}.",
        fact=lambda model: getattr(model, name, None),
        agrees=agrees,
    )


def _fixed(value: str, text: str, way_out: str) -> Statement:
    return Statement(
        takes_value=True, text=text, fact=lambda _: value, agrees=_same_text, way_out=way_out
    )


def _holds(text: str, fact: Callable[[ModelConfig], bool] = lambda _: True) -> Statement:
    return Statement(takes_value=False, text=text, fact=fact, agrees=_is_true)


_OWN_MATRIX = "an output matrix of its own"
_OFF = "Off in any case: the layers here use no such fused kernel."

STATEMENTS: Mapping[str, Statement] = MappingProxyType(
    {
        # What every model here is built from.
        "--use-mcore-models": _holds("Always so: models are megatron-core module specs."),
        "--disable-bias-linear": _holds("Always so: no linear layer of the models has a bias."),
        # The model's shape, which --model and --model-override decide.
        "--num-layers": _field("num_layers"),
        "--hidden-size": _field("hidden_size"),
        "--ffn-hidden-size": Statement(
            takes_value=True,
            text="Confirms the inner width of the dense MLP, or of an expert where there is none.",
            fact=lambda model: model.dense_mlp_width or model.ffn_hidden_size,
            agrees=_same_number,
        ),
        "--moe-ffn-hidden-size": _field("ffn_hidden_size"),
        "--num-attention-heads": _field("num_attention_heads"),
        "--num-query-groups": _field("num_query_groups"),
        "--kv-channels": _field("kv_channels"),
        "--num-experts": _field("num_experts"),
        "--moe-router-topk": _field("moe_router_topk"),
        "--vocab-size": _field("vocab_size"),
        "--rotary-base": _field("rotary_base", agrees=_close_number),
        "--norm-epsilon": _field("norm_epsilon", agrees=_close_number),
        "--embedding-multiplier-scale": _field("embedding_multiplier_scale", agrees=_close_number),
        "--output-multiplier-scale": _field("output_multiplier_scale", agrees=_close_number),
        "--max-position-embeddings": Statement(
            takes_value=True,
            text="Confirms that rotary positions reach as far as the model's sequence length.",
            fact=lambda model: model.seq_length,
            agrees=lambda given, length: int(given) >= int(str(length)),
            way_out="Raise it to the sequence length; rotary embeddings need no table.",
        ),
        # The model's architecture.
        "--group-query-attention": _holds(
            "Confirms that the model has fewer key/value groups than heads.",
            lambda model: model.num_query_groups < model.num_attention_heads,
        ),
        "--swiglu": Statement(
            takes_value=False,
            text="Confirms that the model's experts are gated by SiLU.",
            fact=lambda model: f"activation {getattr(model, 'activation', 'silu')}",
            agrees=lambda _, activation: activation == "activation silu",
            way_out="Drop the flag, or choose --model grok1-40b-guide, which has SiLU.",
        ),
        "--untie-embeddings-and-output-weights": Statement(
            takes_value=False,
            text="Confirms that the model has an output matrix of its own.",
            fact=lambda model: (
                _OWN_MATRIX
                if model.untie_embeddings_and_output_weights
                else "its embedding as output matrix"
            ),
            agrees=lambda _, matrix: matrix == _OWN_MATRIX,
            way_out="Drop the flag, or choose --model grok1-40b-guide, which is untied.",
        ),
        "--post-norm": _holds(
            "Confirms that the model has norms after attention and experts as well (Grok-1).",
            lambda model: getattr(model, "post_norms", False),
        ),
        "--input-jitter": _holds(
            "In ModelLink this flag turns the router's input noise OFF (it is store_false); "
            "the models here have none."
        ),
        # Choices that have a single value here.
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
        # Fused kernels that scripts turn off.
        "--no-rope-fusion": _holds(_OFF),
        "--no-bias-dropout-fusion": _holds(_OFF),
        "--no-bias-swiglu-fusion": _holds(_OFF),
        "--no-masked-softmax-fusion": _holds(_OFF),
        # How a run works in any case.
        "--use-rotary-position-embeddings": _holds("Always so: all models have rotary positions."),
        "--accumulate-allreduce-grads-in-fp32": _holds("Always so, with --bf16 as well."),
        "--use-cpu-initialization": _holds(
            "Initial weights depend on the seed alone, never on the device or the layout."
        ),
        "--no-create-attention-mask-in-dataloader": _holds("Always so: attention is causal."),
        "--use-dist-ckpt": _holds("Always so: checkpoints are distributed ones."),
        "--auto-detect-ckpt-format": _holds("Always so; there is one format."),
        "--ckpt-format": _fixed(
            "torch_dist", "Confirms distributed checkpoints, the only format.", "Drop the flag."
        ),
        "--dataloader-type": _fixed(
            "single", "Confirms one pass in a seeded order, the only kind here.", "Drop the flag."
        ),
        "--optimizer": _fixed("adam", "Confirms Adam, the only optimizer here.", "Drop the flag."),
        "--moe-token-dispatcher-type": _fixed(
            "alltoall", "Confirms that tokens go by all-to-all.", "Drop the flag."
        ),
        "--rerun-mode": _fixed(
            "disabled",
            "Confirms that no step is run again to tell a fault of hardware from one of data.",
            "Only disabled is supported: faults go by the policies of docs/health.md.",
        ),
        "--moe-per-layer-logging": _holds("Always so: each layer's expert load is logged."),
        "--log-throughput": _holds("Always so."),
        "--use-pytorch-profiler": _holds("Always so where --profile is given."),
    }
)

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        # Kernels and overlaps that the layers here do not have.
        "--use-mc2": "merging matrix products with communication needs MindSpeed's kernels, which "
        "this project does not call; drop the flag, --sequence-parallel stays.",
        "--tp-comm-overlap": "it needs TransformerEngine, which nothing here calls; drop the flag.",
        "--moe-permutation-async-comm": "overlapping token permutation with communication needs "
        "MindSpeed's dispatcher; tokens go by all-to-all here; drop the flag.",
        "--moe-router-fusion": "the router is this project's own, with gates in fp32, and calls "
        "nothing of TransformerEngine; drop the flag.",
        "--use-fused-moe-token-permute-and-unpermute": "torch_npu's kernels take indices, and "
        "megatron-core's dispatcher gives a map of tokens and experts; drop the flag.",
        # Features that this product does not have.
        "--context-parallel-algo": "context parallelism is not supported; drop the flag and "
        "shorten --seq-length or raise --tensor-model-parallel-size instead.",
        "--fp16": "float16 needs loss scaling, which is not supported; use --bf16.",
        "--fp8-format": "8-bit floats need TransformerEngine; use --bf16.",
        "--swap-attention": "activations are not swapped here; use --recompute-granularity full.",
        "--recompute-activations": "say --recompute-granularity selective, which is the same.",
        "--reset-position-ids": "rotary attention sees only distances, so restarted positions "
        "change nothing; drop the flag.",
        "--reset-attention-mask": "documents are packed and attention crosses their borders, as in "
        "the published runs; drop the flag.",
        "--result-rejected-tracker-filename": "steps are not run again here; bad batches are "
        "written to <save>/bad_batches in any case; drop the flag.",
        "--error-injection-rate": "faults are injected by the tests, not by a run; drop the flag.",
        "--error-injection-type": "faults are injected by the tests, not by a run; drop the flag.",
        # Features that have another flag here.
        "--train-samples": "runs are counted in steps; use --train-iters.",
        "--lr-decay-samples": "runs are counted in steps; use --lr-decay-iters.",
        "--lr-warmup-samples": "runs are counted in steps; use --lr-warmup-iters.",
        "--rampup-batch-size": "the batch size is constant; drop the flag.",
        "--num-virtual-stages-per-pipeline-rank": "use --num-layers-per-virtual-pipeline-stage.",
        "--finetune": "use --pretrained-checkpoint instead of --load: its weights are loaded and "
        "steps start at 1.",
        "--use-checkpoint-args": "settings come from the recipe, file and flags alone; a "
        "checkpoint of another model is an error. Give the same --model.",
        "--no-save-rng": "checkpoints always hold the random states; use --no-load-rng on loading.",
        "--vocab-file": "use --tokenizer-name-or-path.",
        "--merge-file": "use --tokenizer-name-or-path.",
        "--encoder-seq-length": "use --seq-length.",
        "--tensorboard-log-interval": "all reports come every --log-interval steps; drop the flag.",
        "--wandb-save-dir": "W&B's own files go below --save; drop the flag.",
    }
)


def disagreements(given: Mapping[str, Given], model: ModelConfig, name: str) -> list[str]:
    """A sentence for every statement that contradicts the model."""
    sentences = []
    for flag, value in given.items():
        statement = STATEMENTS[flag]
        fact = statement.fact(model)
        try:
            agrees = statement.agrees(value, fact)
        except ValueError:
            agrees = False
        if not agrees:
            words = f"{flag} {value}" if statement.takes_value else flag
            has = "does not have it" if fact in (None, False) else f"has {fact}"
            sentences.append(
                f"{words} contradicts the model {name}, which {has}. {statement.way_out}"
            )
    return sentences


def check_statements(
    given: Mapping[str, Given], model: ModelConfig, name: str, others: Mapping[str, ModelConfig]
) -> None:
    """Raise ConfigError for all statements that contradict the model, naming models that agree."""
    sentences = disagreements(given, model, name)
    if not sentences:
        return
    fitting = [
        other_name
        for other_name, other in others.items()
        if not disagreements(given, other, other_name)
    ]
    if fitting:
        sentences.append(f"All these flags agree with --model {' or '.join(fitting)}.")
    raise ConfigError("\n".join(sentences))
