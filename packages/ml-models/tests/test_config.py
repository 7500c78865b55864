"""Configurations: the named ones, their JSON, and what they refuse."""

import json

import pytest

from ml_models import registry
from ml_models.errors import ConfigError
from ml_models.grok1.config import Grok1Config, ffn_hidden_size


@pytest.mark.parametrize("name", registry.names())
def test_named_configurations_survive_json(name: str) -> None:
    config = registry.get(name)
    assert registry.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert registry.architecture(config).name == config.architecture


def test_released_sizes() -> None:
    config = registry.get("grok1-314b")
    assert isinstance(config, Grok1Config)
    assert config.ffn_hidden_size == ffn_hidden_size(8, 6144) == 32768
    assert config.attention_scale == pytest.approx(config.kv_channels**-0.5)
    assert config.embedding_multiplier_scale == pytest.approx(config.hidden_size**0.5)
    assert [ffn_hidden_size(8, 64), ffn_hidden_size(2, 64)] == [344, 88]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 7}, ["num_attention_heads is 7", "num_query_groups", "4"]),
        ({"moe_router_topk": 9}, ["moe_router_topk is 9", "num_experts", "8"]),
        ({"num_experts": 0}, ["num_experts is 0", "1 or more"]),
        ({"vocab_size": "big"}, ["vocab_size is 'big'", "whole number"]),
        ({"activation": "relu"}, ["activation is 'relu'", "gelu_tanh"]),
        ({"attention_logit_cap": -1.0}, ["attention_logit_cap is -1.0", "null"]),
        ({"num_layer": 2}, ["num_layer", "num_layers"]),
    ],
)
def test_illegal_values_are_named(changes: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        registry.get("grok1-tiny").replace(**changes)
    assert all(word in str(error.value) for word in words), error.value


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match="grok1-40b"):
        registry.get("grok1-41b")
    with pytest.raises(ConfigError, match="known: grok1, grok2, mixtral"):
        registry.from_dict({"architecture": "llama"})
