"""The runs whose planned step times are compared with measured ones."""

from collections.abc import Mapping, Sequence

_FULL_RECOMPUTATION = (
    *("--recompute-granularity", "full"),
    *("--recompute-method", "uniform", "--recompute-num-layers", "1"),
)
_DISTRIBUTED_OPTIMIZER = "--use-distributed-optimizer"
_SIZES = {
    "tp": "--tensor-model-parallel-size",
    "pp": "--pipeline-model-parallel-size",
    "ep": "--expert-model-parallel-size",
    "etp": "--expert-tensor-parallel-size",
    "gbs": "--global-batch-size",
    "mbs": "--micro-batch-size",
}


def _words(
    model: tuple[int, int, int, int], *switches: str, experts: int = 8, **sizes: int
) -> list[str]:
    """model: hidden size, inner width of an expert, layers, tokens of a sequence."""
    hidden, inner, layers, tokens = model
    fields = {
        **{"hidden_size": hidden, "ffn_hidden_size": inner, "num_layers": layers},
        **{"num_attention_heads": 4, "num_query_groups": 2, "kv_channels": 64},
        **{"vocab_size": 4096, "num_experts": experts},
    }
    overrides = [f"{name}={value}" for name, value in fields.items()]
    words = ["--model", "grok1-tiny", "--seq-length", str(tokens), "--lr", "1e-4"]
    words += ["--model-override", *overrides, *switches]
    return words + [word for name, size in sizes.items() for word in (_SIZES[name], str(size))]


RUNS: Mapping[int, Mapping[str, Sequence[str]]] = {
    1: {
        "wide": _words((512, 1408, 2, 256), gbs=2),
        "long": _words((256, 512, 2, 1024), gbs=1),
        "bf16": _words((256, 512, 2, 256), "--bf16", gbs=2),
        "deep, recompute, mbs 2": _words((256, 704, 6, 256), *_FULL_RECOMPUTATION, gbs=2, mbs=2),
    },
    2: {
        "TP2": _words((512, 1024, 2, 256), gbs=2, tp=2),
        "EP2, distributed optimizer": _words(
            (256, 704, 4, 512), _DISTRIBUTED_OPTIMIZER, gbs=4, ep=2
        ),
        "PP2": _words((384, 768, 4, 256), gbs=4, pp=2),
        "DP2, bf16": _words((256, 512, 2, 256), "--bf16", gbs=4),
    },
    4: {
        "TP2 PP2": _words((512, 1024, 4, 256), gbs=4, tp=2, pp=2),
        "TP2 EP2 ETP2": _words((256, 704, 2, 256), gbs=4, tp=2, ep=2, etp=2),
        "PP2 EP2": _words((256, 512, 4, 256), gbs=8, pp=2, ep=2),
        "EP4, distributed optimizer": _words(
            (256, 512, 2, 512), _DISTRIBUTED_OPTIMIZER, gbs=4, ep=4
        ),
        "PP4": _words((256, 704, 4, 256), gbs=8, pp=4),
        "DP4, 4 experts": _words((256, 512, 2, 256), experts=4, gbs=8),
    },
}
"""Processes -> name -> flags of the run."""
