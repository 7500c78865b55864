"""The router's auxiliary losses: values and gradients against formulas of their own in fp64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ml_models import registry
from ml_models.build import build_model, make_transformer_config
from ml_models.probe import routers

TOKENS = 40
AUX, Z = 0.3, 0.02


def make_router(pre_softmax: bool, **training: Any) -> Any:
    model = registry.get("grok1-tiny").replace(vocab_size=64, renormalize_topk=not pre_softmax)
    settings = make_transformer_config(
        model,
        moe_router_load_balancing_type="aux_loss",
        moe_aux_loss_coeff=AUX,
        moe_z_loss_coeff=Z,
        **training,
    )
    built = build_model(model, settings, padded_vocab_size=64, pre_process=True, post_process=True)
    router = routers(built)[2]
    with torch.no_grad():
        router.weight.mul_(20)
    return router.train()


def expected(x: Tensor, weight: Tensor, grad: Tensor, pre_softmax: bool, factor: float) -> Any:
    """Gradients of (probs . grad) + factor * (AUX * E sum f_e P_e + Z * mean logsumexp^2)."""
    x, weight = x.double().requires_grad_(), weight.detach().double().requires_grad_()
    logits = x @ weight.t()
    scores = logits.softmax(-1)
    top = scores.topk(2, dim=-1)
    probs = torch.zeros_like(scores)
    for token in range(TOKENS):
        chosen = top.indices[token]
        values = scores[token, chosen]
        probs[token, chosen] = values if pre_softmax else values / values.sum()
    share = torch.bincount(top.indices.flatten(), minlength=8).double() / (2 * TOKENS)
    aux = 8 * (share * scores.mean(0)).sum()
    z = (logits.exp().sum(-1).log() ** 2).mean()
    ((probs * grad.double()).sum() + factor * (AUX * aux + Z * z)).backward()
    return probs.detach(), x.grad, weight.grad, aux.detach(), z.detach()


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("pre_softmax", [True, False], ids=["all", "renormalised"])
def test_auxiliary_losses(pre_softmax: bool, per_token: bool, alone: None) -> None:
    from megatron.core.transformer.moe import moe_utils

    router = make_router(pre_softmax, calculate_per_token_loss=per_token)
    torch.manual_seed(0)
    x = torch.randn(TOKENS, 1, 64, requires_grad=True)
    grad = torch.randn(TOKENS, 8)
    moe_utils.MoEAuxLossAutoScaler.set_loss_scale(torch.tensor(0.5))
    try:
        probs, routing_map = router(x)
        (probs * grad).sum().backward()
    finally:
        moe_utils.MoEAuxLossAutoScaler.set_loss_scale(torch.tensor(1.0))
    factor = 0.5 * (TOKENS if per_token else 1)
    wanted = expected(x.detach()[:, 0], router.weight, grad, pre_softmax, factor)
    assert torch.equal(routing_map, wanted[0] != 0) and (routing_map.sum(1) == 2).all()
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(probs.double(), wanted[0], **close)
    torch.testing.assert_close(x.grad[:, 0].double(), wanted[1], **close)
    torch.testing.assert_close(router.weight.grad.double(), wanted[2], **close)
    plain = expected(x.detach()[:, 0], router.weight, grad, pre_softmax, 0.0)[2]
    assert (wanted[2] - plain).norm() > 0.01 * plain.norm(), "the losses have no weight here"
    moe_utils.clear_aux_losses_tracker()


def test_core_s_own_balancing_loss(alone: None) -> None:
    """E sum f_e P_e as megatron-core computes it, on both lines."""
    import inspect

    from megatron.core.transformer.moe import moe_utils

    torch.manual_seed(1)
    x, weight = torch.randn(TOKENS, 64), torch.randn(8, 64)
    _, _, _, aux, z = expected(x, weight, torch.zeros(TOKENS, 8), True, 1.0)
    logits = x @ weight.t()
    scores = logits.softmax(-1)
    counts = torch.bincount(scores.topk(2).indices.flatten(), minlength=8)
    arguments = {"topk": 2, "moe_aux_loss_coeff": 1.0}
    known = inspect.signature(moe_utils.switch_load_balancing_loss_func).parameters
    if "num_experts" in known:
        arguments |= {"num_experts": 8, "total_num_tokens": TOKENS}
    found = moe_utils.switch_load_balancing_loss_func(scores, counts, **arguments)
    torch.testing.assert_close(found.double(), aux, rtol=1e-5, atol=0)
    torch.testing.assert_close(moe_utils.z_loss_func(logits, 1.0).double(), z, rtol=1e-5, atol=0)
