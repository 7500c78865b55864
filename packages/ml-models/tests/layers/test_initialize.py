"""Drawing of initial weights: threads, parts, and what the values look like."""

import torch

from ml_models.layers.initialize import fill_normal


def test_a_large_parameter_is_drawn_by_threads_and_equals_its_parts() -> None:
    shape = (3, 2, 1200, 1000)
    whole = torch.nn.Parameter(torch.empty(shape))
    fill_normal(whole, "w", 7, 0.02, shape, (0, 0, 0, 0))
    assert abs(whole.std().item() / 0.02 - 1) < 1e-3
    assert abs(whole.mean().item()) < 1e-4
    part = torch.empty(1, 2, 700, 300)
    fill_normal(part, "w", 7, 0.02, shape, (1, 0, 400, 650))
    assert torch.equal(part, whole.detach()[1:2, :, 400:1100, 650:950])


def test_names_and_seeds_give_other_values_and_bf16_rounds_the_same() -> None:
    def draw(name: str, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        out = torch.empty(64, 64, dtype=dtype)
        fill_normal(out, name, seed, 1.0, (64, 64), (0, 0))
        return out

    assert not torch.equal(draw("a", 1), draw("b", 1))
    assert not torch.equal(draw("a", 1), draw("a", 2))
    assert torch.equal(draw("a", 1).bfloat16(), draw("a", 1, torch.bfloat16))
