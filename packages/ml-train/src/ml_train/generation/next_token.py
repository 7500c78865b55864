"""Draw tokens, one after the other, from a model's logits."""

from collections.abc import Callable, Iterator

import torch

from ml_train.generation.sampling import Sampling


def next_token(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw a token by fp32 logits [vocabulary] on the CPU."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    ordered, tokens = logits.double().div(sampling.temperature).sort(descending=True, stable=True)
    if sampling.top_k is not None:
        ordered = ordered[: sampling.top_k]
    probabilities = ordered.softmax(dim=0)
    if sampling.top_p is not None:
        # Keep a token while the likelier ones together are below top_p: the likeliest always stays.
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
    """Yield new tokens; end after eod_id. The model sees the last max_length tokens.

    logits_of: int64 tokens [1, S] -> fp32 logits [1, positions, vocabulary] that end with the last
    position.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt)
    for _ in range(max_new_tokens):
        window = torch.tensor([tokens[-max_length:]])
        token = next_token(logits_of(window)[0, -1].cpu(), sampling, generator)
        yield token
        if token == eod_id:
            return
        tokens.append(token)
