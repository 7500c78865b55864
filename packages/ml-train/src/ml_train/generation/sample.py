"""Tokens one after the other from a model's logits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ml_train.config.sections.rules import COUNT, NUMBER_OR_NONE, Range, check_number
from ml_train.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""

    top_k: int | None = None
    """Draw among the k likeliest tokens only."""

    top_p: float | None = None
    """Draw among the likeliest tokens that together reach this probability."""

    def __post_init__(self) -> None:
        check_number("--temperature", self.temperature, NUMBER_OR_NONE)
        check_number("--top-k", self.top_k, COUNT)
        check_number("--top-p", self.top_p, Range(above=0, at_most=1))
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise ConfigError(
                "--top-k and --top-p have no effect with --temperature 0, which always takes the "
                "likeliest token; drop one or the other."
            )


def next_token(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """A token of fp32 logits [vocabulary] on the CPU."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    ordered, tokens = logits.double().div(sampling.temperature).sort(descending=True, stable=True)
    if sampling.top_k is not None:
        ordered = ordered[: sampling.top_k]
    probabilities = ordered.softmax(dim=0)
    if sampling.top_p is not None:
        # Keep a token when those before it do not reach top_p yet, so the first one always.
        before = probabilities.cumsum(dim=0) - probabilities
        probabilities = probabilities * (before < sampling.top_p)
    return int(tokens[torch.multinomial(probabilities, 1, generator=generator)])


def generate(
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    prompt: list[int],
    *,
    max_new_tokens: int,
    max_length: int,
    sampling: Sampling,
    seed: int,
    eod_id: int | None,
) -> Iterator[int]:
    """Yield new tokens; end after eod_id. The model sees the last max_length tokens."""
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt)
    for _ in range(max_new_tokens):
        window = torch.tensor([tokens[-max_length:]])
        token = next_token(logits_of(window)[0, -1].cpu(), sampling, generator)
        yield token
        if token == eod_id:
            return
        tokens.append(token)
