"""Which experts the tokens of a planned step go to.

Balanced routing gives every expert the same number of tokens, up to rounding. Recorded counts
give the experts of every layer the shares that a run reported.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ml_models.layers.router import FusedRouter


def choose(num_tokens: int, num_experts: int, topk: int, counts: Sequence[float] | None) -> Tensor:
    """A mask bool [num_tokens, num_experts] on the CPU with `topk` experts per token.

    counts: tokens per expert in any unit, or None for a balanced choice. A share above
    1 / topk, which no choice of distinct experts can reach, is cut down to it.
    """
    assignments = num_tokens * topk
    if counts is None:
        sizes = [assignments // num_experts] * num_experts
    else:
        total = sum(counts) or 1.0
        sizes = [min(num_tokens, int(assignments * count / total)) for count in counts]
    # What rounding left over goes to the experts with room, the first of them first.
    left = assignments - sum(sizes)
    while left:
        for expert in range(num_experts):
            if left and sizes[expert] < num_tokens:
                sizes[expert] += 1
                left -= 1
    # Expert after expert around the tokens: an expert takes each token at most once, as it takes
    # at most num_tokens of them in a row, and every token is taken exactly topk times.
    experts = torch.repeat_interleave(torch.arange(num_experts), torch.tensor(sizes))
    tokens = torch.arange(assignments) % num_tokens
    chosen = torch.zeros(num_tokens, num_experts, dtype=torch.bool)
    chosen[tokens, experts] = True
    return chosen


def choose_in(chunks: Sequence[torch.nn.Module], counts: Sequence[float] | None = None) -> None:
    """Let every router of the model chunks make that choice in place of its own."""
    for chunk in chunks:
        for module in chunk.modules():
            if isinstance(module, FusedRouter):
                module.register_forward_hook(_Choice(module.topk, counts))


class _Choice:
    """A forward hook: probabilities as the router gives them, and a choice with values."""

    def __init__(self, topk: int, counts: Sequence[float] | None) -> None:
        self.topk, self.counts = topk, counts
        self.made: dict[torch.Size, Tensor] = {}

    def __call__(
        self, _: torch.nn.Module, __: object, output: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        probs, chosen = output
        if chosen.shape not in self.made:
            tokens, experts = chosen.shape
            self.made[chosen.shape] = choose(tokens, experts, self.topk, self.counts)
        return probs, self.made[chosen.shape]
