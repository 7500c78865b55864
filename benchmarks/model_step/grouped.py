"""Experts by one grouped product each way (torch's grouped_mm) or by one product per expert.

    python benchmarks/model_step/grouped.py [--tokens 4096] [--rounds 15] [--device cpu]

Both run the forward and backward pass of a mid-size layer's experts, alternating, one expert
without tokens; prints milliseconds, the ratio and the largest difference of any result. Needs
torch 2.10 or later, which has torch.nn.functional.grouped_mm.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ml_models.kernels.experts.loop import ExpertFunction, Product

HIDDEN, FFN, EXPERTS = 768, 2048, 8
ACTIVATION = "gelu_tanh"


def per_expert(x: Tensor, probs: Tensor, fc1: Tensor, fc2: Tensor, counts: Tensor) -> Tensor:
    """As ml-models does it."""
    product = Product(ACTIVATION, compiled=False)
    result: Tensor = ExpertFunction.apply(x, probs, fc1, fc2, counts.tolist(), product)
    return result


def grouped(x: Tensor, probs: Tensor, fc1: Tensor, fc2: Tensor, counts: Tensor) -> Tensor:
    """The same by grouped_mm and autograd."""
    ends = counts.cumsum(0).to(torch.int32)
    inner = torch.nn.functional.grouped_mm(x, fc1.flatten(1, 2).transpose(1, 2), offs=ends)
    gate, value = inner.chunk(2, dim=-1)
    product = torch.nn.functional.gelu(gate, approximate="tanh") * value * probs[:, None]
    return torch.nn.functional.grouped_mm(product.to(x.dtype), fc2.transpose(1, 2), offs=ends)


def main() -> None:
    """Alternate, then print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        made = {"dtype": dtype, "device": args.device}
        shares = torch.rand(EXPERTS - 1).softmax(0)
        counts = torch.zeros(EXPERTS, dtype=torch.int64)
        counts[1:] = (shares * args.tokens).long()
        counts[-1] += args.tokens - counts.sum()
        counts = counts.to(args.device)
        inputs = [
            torch.randn(args.tokens, HIDDEN, **made),
            torch.rand(args.tokens, device=args.device),
            torch.randn(EXPERTS, 2, FFN, HIDDEN, **made) * 0.02,
            torch.randn(EXPERTS, HIDDEN, FFN, **made) * 0.02,
        ]
        inputs = [tensor.requires_grad_() for tensor in inputs]
        upstream = torch.randn(args.tokens, HIDDEN, **made)

        def run(
            way: Callable[..., Tensor],
            inputs: list[Tensor] = inputs,
            counts: Tensor = counts,
            upstream: Tensor = upstream,
        ) -> list[Tensor]:
            out = way(*inputs, counts)
            return [out, *torch.autograd.grad(out, inputs, upstream)]

        results, expected = run(per_expert), run(grouped)
        largest = max(
            ((result - other).float().abs().max() / other.float().abs().max()).item()
            for result, other in zip(results, expected, strict=True)
        )
        seconds: dict[str, list[float]] = {"per expert": [], "grouped_mm": []}
        for _ in range(args.rounds):
            for name, way in (("per expert", per_expert), ("grouped_mm", grouped)):
                started = time.perf_counter()
                run(way)
                if args.device != "cpu":
                    torch.accelerator.synchronize()
                seconds[name].append(time.perf_counter() - started)
        medians = {name: statistics.median(times) * 1000 for name, times in seconds.items()}
        shown = ", ".join(f"{name} {value:.0f} ms" for name, value in medians.items())
        ratio = medians["grouped_mm"] / medians["per expert"]
        print(f"{dtype}: {shown}, ratio {ratio:.2f}, largest relative difference {largest:.1e}")


if __name__ == "__main__":
    main()
