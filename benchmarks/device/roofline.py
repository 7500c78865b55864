"""The highest share of a device's peak that a layer's training step can reach, on no device.

    python benchmarks/device/roofline.py [--tp 4 --ep 2 --etp 4] [--kernels 20]

Runs forward and backward pass of one layer of true width on fake tensors, lists what a device would
launch, and adds up the least time of each kernel. The optimizer is not counted.
"""

import argparse
import json
import logging
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, get_args

from ml_models import registry
from ml_models.costs.device import DEVICES, Device
from ml_models.costs.recorder import Kernel
from ml_models.errors import MlModelsError
from ml_models.kernels.execution import Execution
from ml_models.kernels.selection import AUTO
from ml_models.kernels.table import OPERATIONS, KernelSettings
from ml_models.platforms import make_core_importable
from ml_train.training.flops import forward_flops_per_token

if TYPE_CHECKING:
    from ml_models.costs.layer_step import LayerStep, StepCosts

# triton comes with torch's builds for CUDA.
PACKAGES = {
    "cpu": frozenset[str](),
    "torch": frozenset({"triton"}),
    "flash-attn": frozenset({"triton", "flash_attn"}),
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="grok1-314b", help="a name of `ml-models list`")
    parser.add_argument("--seq-length", type=int, default=8192, help="tokens of a sequence")
    parser.add_argument("--micro-batch-size", type=int, default=1, help="sequences")
    for name, size in (("tp", "tensor"), ("ep", "expert"), ("etp", "expert tensor")):
        parser.add_argument(f"--{name}", type=int, default=1, help=f"{size} parallel size")
    parser.add_argument(
        "--attention-backend",
        choices=(AUTO, *OPERATIONS["attention"].requests),
        default=AUTO,
        help="as ml-train's flag",
    )
    parser.add_argument("--execution", choices=get_args(Execution), default="eager")
    parser.add_argument(
        "--forms",
        choices=sorted(PACKAGES),
        default="torch",
        help="forms of a GPU with torch alone, with FlashAttention too, or of the CPU",
    )
    parser.add_argument("--device", choices=sorted(DEVICES), default="h100")
    parser.add_argument("--kernels", type=int, default=0, metavar="N", help="list the N longest")
    parser.add_argument("--json", action="store_true", help="one line of figures")
    return parser.parse_args()


def needed_flops(step: "LayerStep") -> float:
    """FLOPs of the layer by its active parameters, causal attention once; this rank's share."""
    layer = step.model.replace(num_layers=1)
    forward = forward_flops_per_token(layer, step.seq_length)
    tokens = step.seq_length * step.micro_batch_size
    return 3 * (forward.total - forward.logits) * tokens / step.tp


def summary(step: "LayerStep", costs: "StepCosts", device: Device) -> dict[str, float]:
    """The figures of a run."""
    computing = [kernel for kernel in costs.kernels if kernel.kind != "communication"]
    needed = needed_flops(step)
    return {
        "kernels": len(computing),
        "host_waits": len(costs.host_waits),
        "milliseconds": round(1000 * sum(map(device.seconds, computing)), 2),
        "bound": round(device.bound(computing, needed), 3),
        "collectives": len(costs.kernels) - len(computing),
        "bound_with_collectives": round(device.bound(costs.kernels, needed), 3),
        "needed_tflop": round(needed / 1e12, 2),
        "executed_tflop": round(sum(kernel.flops for kernel in computing) / 1e12, 2),
    }


def print_assumptions(step: "LayerStep", device: Device) -> None:
    """What the bound rests on."""
    print(f"Device: {device.name}.")
    for line in (
        f"- peak {device.peak_flops / 1e12:.0f} TFLOP/s (dense bf16); large bf16 products reach "
        f"{device.large_product_rate / 1e12:.0f} [{device.sources['large_product_rate']}], "
        f"fp32 products {device.float32_rate / 1e12:.0f} [{device.sources['float32_rate']}]",
        "- smaller products: times tiles / (multiprocessors * rounds) * K / (K + "
        f"{device.tile_overhead}), tiles of {device.tile_rows} x {device.tile_columns} on "
        f"{device.multiprocessors} multiprocessors",
        *(
            f"- {name}: {rate / 1e12:.0f} TFLOP/s, causal half counted once "
            f"[{device.sources[name]}]"
            for name, rate in device.attention_rate.items()
        ),
        f"- {device.bytes_per_second / 1e12:.1f} TB/s read and written; each tensor of a kernel "
        f"counts once [{device.sources['bytes_per_second']}]",
        f"- {device.seconds_per_kernel * 1e6:.0f} us for any kernel "
        f"[{device.sources['seconds_per_kernel']}]; kernels do not overlap",
        f"- collectives at {device.link_bytes_per_second / 1e9:.0f} GB/s "
        f"[{device.sources['link_bytes_per_second']}]",
        "- compiled functions: the kernels and bytes of torch.compile's own scheduler, given an "
        "H100's properties (ml_models/costs/compiled.py)",
        f"- tokens spread evenly over the experts; {step.dtype} parameters, fp32 main gradients",
        "- the optimizer is not counted; peak and needed FLOPs: active parameters, causal "
        "attention once, nothing recomputed",
    ):
        print(line)


def print_parts(kernels: Iterable[Kernel], device: Device) -> None:
    """Time by part of the layer."""
    parts: dict[str, list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        collective = kernel.kind == "communication"
        direction = "backward" if kernel.backward else "forward"
        parts["collectives" if collective else f"{kernel.part}, {direction}"].append(kernel)
    total = sum(map(device.seconds, kernels))
    print(f"\n{'part':46} {'kernels':>7} {'TFLOP':>8} {'GB':>8} {'ms':>8} {'share':>6}")
    seconds = {name: sum(map(device.seconds, rows)) for name, rows in parts.items()}
    for name in sorted(parts, key=seconds.__getitem__, reverse=True):
        flops = sum(kernel.flops for kernel in parts[name]) / 1e12
        moved = sum(kernel.moved_bytes for kernel in parts[name]) / 1e9
        print(
            f"{name:46} {len(parts[name]):7} {flops:8.2f} {moved:8.1f} "
            f"{1000 * seconds[name]:8.2f} {seconds[name] / total:6.1%}"
        )


def print_longest(kernels: Iterable[Kernel], device: Device, count: int) -> None:
    """The longest kernels, equal ones in one line."""
    equal = Counter(kernels)
    longest = sorted(equal, key=lambda kernel: equal[kernel] * device.seconds(kernel))[::-1]
    print(f"\n{'kernel':38} {'part':34} {'times':>5} {'us':>8} {'TFLOP':>8} {'GB':>8}")
    for kernel in longest[:count]:
        times = equal[kernel]
        print(
            f"{kernel.name + (', backward' if kernel.backward else ''):38} {kernel.part:34} "
            f"{times:5} {1e6 * times * device.seconds(kernel):8.0f} "
            f"{times * kernel.flops / 1e12:8.3f} {times * kernel.moved_bytes / 1e9:8.2f}"
        )


def main() -> int:
    """Count and print."""
    args = parse()
    # torch's notes about its fake process group and fake tensors say nothing about the figures.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    device = DEVICES[args.device]
    make_core_importable()
    from ml_models.costs.layer_step import LayerStep, fake_step

    try:
        step = LayerStep(
            model=registry.get(args.model),
            seq_length=args.seq_length,
            micro_batch_size=args.micro_batch_size,
            tp=args.tp,
            ep=args.ep,
            etp=args.etp,
            execution=args.execution,
            device="cpu" if args.forms == "cpu" else "cuda",
            packages=PACKAGES[args.forms],
            kernels=KernelSettings(attention=args.attention_backend),
        )
        costs = fake_step(step)
    except MlModelsError as error:
        print(error, file=sys.stderr)
        return 2
    figures = summary(step, costs, device)
    if args.json:
        layout = {name: getattr(step, name) for name in ("seq_length", "tp", "ep", "etp")}
        print(json.dumps({"model": args.model, **layout, "device": args.device, **figures}))
        return 0
    print_assumptions(step, device)
    print_parts(costs.kernels, device)
    if args.kernels:
        print_longest(costs.kernels, device, args.kernels)
    waits = ", ".join(f"{name} {count}" for name, count in Counter(costs.host_waits).items())
    print(f"\n{figures['kernels']} kernels, {figures['milliseconds']} ms at least")
    print(f"host waits: {figures['host_waits']} ({waits or 'none'})")
    print(
        f"bound: {figures['bound']:.1%} of peak where computation hides all "
        f"{figures['collectives']} collectives; {figures['bound_with_collectives']:.1%} where each "
        "is waited for"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
