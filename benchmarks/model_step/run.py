"""Time and activation memory of a training step: ours, stock megatron-core, the reference's way.

    python benchmarks/model_step/run.py [--sequence 512 2048] [--repeats 5] [--execution compiled]

One process, fp32, CPU, 2 threads. The three are alternated in one run, as timings taken beside
another job were off by 40 %: read the ratios (medians), not the seconds. Ours and stock run
in megatron-core's DistributedDataParallel, as they are trained. Activation memory is what autograd
keeps between the forward and the backward pass, each storage once, parameters not counted.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import reference_way
import torch

from ml_models.build import build_model, make_transformer_config
from ml_models.grok1.config import Grok1Config
from ml_models.platforms import get_platform

CONFIG = Grok1Config(
    num_layers=4,
    hidden_size=768,
    ffn_hidden_size=2048,
    num_attention_heads=12,
    num_query_groups=4,
    kv_channels=64,
    vocab_size=8192,
    seq_length=2048,
    attention_scale=0.125,
    embedding_multiplier_scale=27.7,
)
Step = Callable[[torch.Tensor], torch.Tensor]


def ours(execution: Any = "eager") -> tuple[Any, Step]:
    settings = make_transformer_config(CONFIG, use_cpu_initialization=True)
    model = build_model(
        CONFIG,
        settings,
        padded_vocab_size=CONFIG.vocab_size,
        pre_process=True,
        post_process=True,
        execution=execution,
    )
    return as_trained(model, settings), megatron_step(model)


def stock() -> tuple[Any, Step]:
    """Megatron-core's own modules of the same sizes; they have no soft cap and no post norms."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec

    settings = make_transformer_config(CONFIG, use_cpu_initialization=True)
    settings.activation_func = torch.nn.functional.gelu
    model = GPTModel(
        settings,
        get_gpt_layer_local_spec(
            num_experts=CONFIG.num_experts, moe_grouped_gemm=False, normalization="RMSNorm"
        ),
        CONFIG.vocab_size,
        CONFIG.seq_length,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=True,
    )
    return as_trained(model, settings), megatron_step(model)


def as_trained(model: Any, settings: Any) -> Any:
    """In megatron-core's DistributedDataParallel, whose buffer gathers the gradients."""
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    return DistributedDataParallel(settings, DistributedDataParallelConfig(), model)


def reference() -> tuple[Any, Step]:
    model = reference_way.Model(CONFIG)
    return model, model


def megatron_step(model: Any) -> Step:
    def step(ids: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)[None, None]
        mask = None if type(model).__name__ == "ScaledGPTModel" else mask
        losses = model(ids, positions, mask, labels=ids.roll(-1, dims=1))
        return losses[:, :-1].mean()

    return step


def seconds_of(model: Any, step: Step, ids: torch.Tensor) -> float:
    start = time.perf_counter()
    if hasattr(model, "zero_grad_buffer"):
        model.zero_grad_buffer()
    else:
        model.zero_grad(set_to_none=False)
    step(ids).backward()
    return time.perf_counter() - start


def kept_bytes(model: Any, step: Step, ids: torch.Tensor) -> int:
    """Bytes of distinct storages that autograd keeps, without the parameters'."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step(ids)
    total = sum(kept.values())
    loss.backward()
    return total


def start() -> Any:
    """One process with megatron-core's groups on the CPU; the context to keep entered."""
    import tempfile

    platform = get_platform("cpu")
    platform.apply()
    context = platform.context()
    context.__enter__()
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    store = f"file://{tempfile.mkdtemp()}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(1)
    return context


def measure(sequence: int, repeats: int, execution: str) -> dict[str, Any]:
    ids = torch.randint(0, CONFIG.vocab_size, (1, sequence))
    built = {"ours": ours(execution), "stock": stock(), "reference": reference()}
    memory = {name: kept_bytes(*pair, ids) for name, pair in built.items()}
    times: dict[str, list[float]] = {name: [] for name in built}
    for _ in range(repeats):
        for name, pair in built.items():
            times[name].append(seconds_of(*pair, ids))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return {
        "sequence": sequence,
        "execution": execution,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "activation_mib": {name: round(value / 2**20) for name, value in memory.items()},
        "times_as_fast_as_stock": round(seconds["stock"] / seconds["ours"], 2),
        "times_as_fast_as_reference": round(seconds["reference"] / seconds["ours"], 2),
        "activation_share_of_stock": round(memory["ours"] / memory["stock"], 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequence", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--execution", choices=("eager", "compiled"), default="eager")
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    context = start()
    for sequence in args.sequence:
        print(json.dumps(measure(sequence, args.repeats, args.execution)), flush=True)
    context.__exit__(None, None, None)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
