"""Parity of every form of the kernels, and the speed of a layer's step at true width.

    python benchmarks/device/measure.py [--device cuda] [--smoke] [--output FOLDER]

Parity: a small layer with each form that can serve here, in fp32 and bf16, against the reference
forms in fp64 with the same weights. Every token passes every expert, so that rounding cannot send a
token to another expert. Speed: forward and backward of a layer of Grok-1 in bf16, sequence 4,096
and 8,192, beside stock megatron-core's layer of the same sizes in the same run. FLOPs are those of
the active parameters and of causal attention, counted once. The optimizer is not part of the step.
--smoke takes small sizes, for a machine without a device.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_models import registry
from ml_models.bring_up import start_platform
from ml_models.errors import ConfigError
from ml_models.kernels.adam import why_not_fused
from ml_models.kernels.selection import AUTO
from ml_models.kernels.table import OPERATIONS, KernelSettings, choices, situation_of

TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
"""Largest relative error of the output or of a gradient, as a norm, against fp64."""


def parity(platform: Any) -> Iterator[dict[str, Any]]:
    """A record per operation, request and dtype."""
    import torch
    from single_layer import Layer

    model = registry.get("grok1-tiny").replace(
        num_layers=1, hidden_size=256, num_attention_heads=4, num_query_groups=2, kv_channels=64,
        ffn_hidden_size=384, num_experts=4, moe_router_topk=4, vocab_size=512,
    )  # fmt: skip
    length = 197  # no multiple of a block
    reference = Layer(model, platform, torch.float64, kernels=KernelSettings(attention="unfused"))
    weights = {
        name: parameter.data.bfloat16() for name, parameter in reference.layer.named_parameters()
    }
    right = results(reference, weights, length)
    measured: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, operation in OPERATIONS.items():
        if name == "adam":
            yield adam_parity(platform)
            continue
        for text in TOLERANCE:
            situation = situation_of(model, device=platform.device.type, dtype=text)
            for request in (AUTO, *operation.requests):
                settings = KernelSettings(**{name: request})
                record = {"operation": name, "request": request, "dtype": text}
                try:
                    forms = tuple(choice.form for choice in choices(settings, situation))
                except ConfigError as error:
                    yield {**record, "skipped": str(error)}
                    continue
                # Two requests may mean the same forms; a layer is built for the first.
                key = (text, *forms)
                if key not in measured:
                    measured[key] = _against(right, model, platform, text, settings, weights)
                form = forms[list(OPERATIONS).index(name)]
                yield {**record, "form": form, **measured[key]}


def _against(
    right: dict[str, Any], model: Any, platform: Any, dtype: str, settings: Any, weights: Any
) -> dict[str, Any]:
    """The largest relative error of a layer with these forms, and where it is."""
    import torch
    from single_layer import Layer

    length = right["output"].shape[0]
    try:
        layer = Layer(model, platform, getattr(torch, dtype), kernels=settings)
        values = results(layer, weights, length)
    except RuntimeError as error:
        return {"passed": False, "failed": str(error).splitlines()[0]}
    errors = {
        key: float((value - right[key]).norm() / right[key].norm()) for key, value in values.items()
    }
    worst = max(errors, key=lambda key: errors[key])
    return {"error": errors[worst], "worst": worst, "passed": errors[worst] <= TOLERANCE[dtype]}


def adam_parity(platform: Any) -> dict[str, Any]:
    """Three updates of torch's AdamW, in the form that a run has here, against fp64."""
    import torch

    form = "torch" if why_not_fused(platform.device.type) else "fused"
    generator = torch.Generator().manual_seed(0)
    start, *gradients = torch.randn(4, 10007, generator=generator)
    parameter = torch.nn.Parameter(start.to(platform.device))
    optimizer = torch.optim.AdamW(
        [parameter], lr=0.1, weight_decay=0.1, fused=True if form == "fused" else None
    )
    wanted, first, second = start.double(), torch.zeros(10007).double(), torch.zeros(10007).double()
    for step, gradient in enumerate(gradients, start=1):
        parameter.grad = gradient.to(platform.device)
        optimizer.step()
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.double() ** 2
        scale = (second / (1 - 0.999**step)).sqrt() + 1e-8
        wanted = wanted * (1 - 0.1 * 0.1) - 0.1 * (first / (1 - 0.9**step)) / scale
    error = float((parameter.detach().double().cpu() - wanted).norm() / wanted.norm())
    record = {"operation": "adam", "request": AUTO, "dtype": "float32", "form": form}
    return {**record, "error": error, "passed": error <= TOLERANCE["float32"]}


def results(layer: Any, weights: dict[str, Any], length: int) -> dict[str, Any]:
    """Output and gradients of a step with given weights, in fp64 on the CPU."""
    for name, parameter in layer.layer.named_parameters():
        parameter.data.copy_(weights[name])
    hidden, angles = layer.inputs(length)
    output = layer.step(hidden, angles, layer.mask(length))
    values = {"output": output.detach(), "input": hidden.grad, **layer.gradients()}
    return {name: value.double().cpu() for name, value in values.items()}


def speed(platform: Any, *, smoke: bool) -> Iterator[dict[str, Any]]:
    """A record per layer and sequence length."""
    import torch

    model = registry.get("grok1-tiny" if smoke else "grok1-314b")
    dtype = torch.float32 if smoke else torch.bfloat16
    peak = platform.peak_tflops(dtype) or product_tflops(platform, dtype, smoke=smoke)
    for length in (64,) if smoke else (4096, 8192):
        for name, options in (
            ("ours", {}),
            ("ours, compiled", {"execution": "compiled"}),
            ("stock megatron-core", {"stock": True}),
        ):
            if smoke and "execution" in options:
                continue  # torch.compile alone would take longer than the rest
            record = {"layer": name, "sequence": length, "peak_tflops": peak}
            try:
                yield {**record, **timed(platform, model, dtype, length, peak, options)}
            except RuntimeError as error:  # torch's OutOfMemoryError is one
                yield {**record, "failed": str(error).splitlines()[0]}
            gc.collect()
            if platform.device.type != "cpu":
                getattr(torch, platform.device.type).empty_cache()


def timed(
    platform: Any, model: Any, dtype: Any, length: int, peak: float, options: dict[str, Any]
) -> dict[str, Any]:
    """Median seconds of a step, its FLOP/s and share of the peak, and peak memory."""
    from single_layer import Layer

    from ml_train.training.flops import forward_flops_per_token

    layer = Layer(model, platform, dtype, **options)
    hidden, angles = layer.inputs(length)
    mask = layer.mask(length)
    platform.reset_peak_memory()
    seconds = []
    for _ in range(8):
        platform.synchronize()
        start = time.perf_counter()
        layer.step(hidden, angles, mask)
        platform.synchronize()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[3:])  # kernels are chosen and compiled in the first steps
    parts = forward_flops_per_token(model.replace(num_layers=1), length)
    flops = 3 * (parts.total - parts.logits) * length
    tflops = flops / median / 1e12
    return {
        "seconds": median,
        "tflops": tflops,
        "share_of_peak": tflops / peak,
        "peak_memory_gb": platform.memory_bytes() / 1e9,
    }


def product_tflops(platform: Any, dtype: Any, *, smoke: bool) -> float:
    """The device's own rate in products of square matrices, where no peak is known."""
    import torch

    size = 512 if smoke else 8192
    left = torch.ones(size, size, dtype=dtype).to(platform.device)
    best = 0.0
    for _ in range(5):
        platform.synchronize()
        start = time.perf_counter()
        left @ left
        platform.synchronize()
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start) / 1e12)
    return best


def main() -> int:
    """Print a line per record and write all to measure.json; 1 where parity fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("device-benchmark"))
    args = parser.parse_args()
    platform = start_platform(args.device)
    import torch
    from single_layer import groups

    name = platform.name
    if name in ("cuda", "npu"):
        name = str(getattr(torch, name).get_device_name(0))
    report: dict[str, Any] = {"device": name, "torch": torch.__version__, "parity": [], "speed": []}
    print(f"device: {name}, torch {torch.__version__}", flush=True)
    with groups(platform):
        for part, records in (
            ("parity", parity(platform)),
            ("speed", speed(platform, smoke=args.smoke)),
        ):
            for record in records:
                report[part].append(record)
                print(f"{part}: {json.dumps(record)}", flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "measure.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    failed = [record for record in report["parity"] if record.get("passed") is False]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
