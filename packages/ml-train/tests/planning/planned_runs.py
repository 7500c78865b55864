"""Runs of four processes whose plans are held to what real processes do."""

PROCESSES = 4
MODEL = (
    *("--model", "grok1-tiny", "--seq-length", "64", "--model-override", "vocab_size=1024"),
    *("hidden_size=64", "ffn_hidden_size=96"),
)
_SIZES = {
    "tp": "--tensor-model-parallel-size",
    "pp": "--pipeline-model-parallel-size",
    "ep": "--expert-model-parallel-size",
    "etp": "--expert-tensor-parallel-size",
    "vpp": "--num-layers-per-virtual-pipeline-stage",
}


def _words(*switches: str, batch: int = 8, **sizes: int) -> list[str]:
    flags = [word for name, size in sizes.items() for word in (_SIZES[name], str(size))]
    return [*MODEL, "--global-batch-size", str(batch), *flags, *switches]


RUNS = {
    "dp4": _words(),
    "tp2-dp2": _words(tp=2),
    "tp2-pp2": _words(tp=2, pp=2),
    "pp4": _words(pp=4),
    "pp2-vpp2-dp2": _words(pp=2, vpp=1),
    "tp2-ep2-etp1": _words(tp=2, ep=2, etp=1),
    "tp2-ep2-etp2": _words(tp=2, ep=2, etp=2),
    "ep4-distopt": _words("--use-distributed-optimizer", ep=4),
    "tp2-ep2-distopt-bf16": _words("--use-distributed-optimizer", "--bf16", tp=2, ep=2),
    "tp2-pp2-bf16": _words("--bf16", tp=2, pp=2),
    "dp4-distopt-overlap": _words("--use-distributed-optimizer", "--overlap-grad-reduce"),
    "pp2-recompute": _words(
        *("--recompute-granularity", "full", "--recompute-method", "uniform"),
        *("--recompute-num-layers", "1"),
        pp=2,
    ),
}
