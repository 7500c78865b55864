"""Grok-1 computed the way of hpcai-tech's published code, written anew for timing.

Full score matrices of all heads with an additive mask, keys and values repeated per query head, one
pass over the experts with gather and index_add, every activation kept by autograd.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ml_models.grok1.config import Grok1Config


class Norm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps, self.scale = eps, nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return self.scale * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Attention(nn.Module):
    def __init__(self, config: Grok1Config) -> None:
        super().__init__()
        self.config = config
        size, heads, groups = (
            config.kv_channels,
            config.num_attention_heads,
            config.num_query_groups,
        )
        self.q = nn.Linear(config.hidden_size, heads * size, bias=False)
        self.k = nn.Linear(config.hidden_size, groups * size, bias=False)
        self.v = nn.Linear(config.hidden_size, groups * size, bias=False)
        self.o = nn.Linear(heads * size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        config = self.config
        batch, length, _ = x.shape
        q, k, v = (
            layer(x).view(batch, length, -1, config.kv_channels).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        q, k = (t * cos + half_turned(t) * sin for t in (q, k))
        repeat = config.num_attention_heads // config.num_query_groups
        k, v = (t.repeat_interleave(repeat, dim=1) for t in (k, v))
        scores = torch.matmul(q, k.transpose(2, 3)).float() * config.attention_scale
        scores = config.attention_logit_cap * torch.tanh(scores / config.attention_logit_cap)
        weights = torch.softmax(scores + mask, dim=-1, dtype=torch.float32)
        out = torch.matmul(weights, v).transpose(1, 2).reshape(batch, length, -1)
        return self.o(out)


def half_turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class Expert(nn.Module):
    def __init__(self, config: Grok1Config) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.ffn_hidden_size
        self.gate = nn.Linear(hidden, width, bias=False)
        self.value = nn.Linear(hidden, width, bias=False)
        self.down = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.gelu(self.gate(x)) * self.value(x))


class Experts(nn.Module):
    def __init__(self, config: Grok1Config) -> None:
        super().__init__()
        self.topk = config.moe_router_topk
        self.router = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(Expert(config) for _ in range(config.num_experts))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        gates, chosen = torch.topk(self.router(tokens).softmax(-1, dtype=torch.float32), self.topk)
        out = torch.zeros_like(tokens)
        hit = nn.functional.one_hot(chosen, len(self.experts)).permute(2, 1, 0)
        for number, expert in enumerate(self.experts):
            which, rows = torch.where(hit[number])
            out.index_add_(0, rows, expert(tokens[rows]) * gates[rows, which, None])
        return out.view_as(x)


class Layer(nn.Module):
    def __init__(self, config: Grok1Config) -> None:
        super().__init__()
        self.attention, self.experts = Attention(config), Experts(config)
        self.norms = nn.ModuleList(Norm(config.hidden_size, config.norm_epsilon) for _ in range(4))

    def forward(self, x: Tensor, *position: Tensor) -> Tensor:
        first, second, third, fourth = self.norms
        x = x + second(self.attention(first(x), *position))
        return x + fourth(self.experts(third(x)))


class Model(nn.Module):
    """ids [B, S] -> mean loss of the next token."""

    def __init__(self, config: Grok1Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = Norm(config.hidden_size, config.norm_epsilon)

    def forward(self, ids: Tensor) -> Any:
        config, length = self.config, ids.shape[1]
        power = torch.arange(0, config.kv_channels, 2) / config.kv_channels
        angle = torch.arange(length)[:, None] * config.rotary_base**-power
        angle = torch.cat((angle, angle), dim=-1)
        mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
        x = self.embedding(ids) * config.embedding_multiplier_scale
        for layer in self.layers:
            x = layer(x, angle.cos(), angle.sin(), mask)
        logits = self.norm(x) @ self.embedding.weight.t() * config.output_multiplier_scale
        return nn.functional.cross_entropy(
            logits[:, :-1].reshape(-1, config.vocab_size), ids[:, 1:].reshape(-1)
        )
