"""Parameters are made on the device that the configuration names, whatever torch was built for."""

import copy
import dataclasses

import pytest
import torch
from megatron.core.transformer import TransformerConfig

from ml_models import registry
from ml_models.build import build_model, make_transformer_config
from ml_models.errors import ConfigError
from ml_models.layers.device import parameter_device, place
from ml_models.layers.experts import Weight
from ml_models.layers.norm import RMSNorm

MODEL = registry.get("grok1-tiny").replace(vocab_size=64, num_layers=1)


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the CUDA build of torch answers on a machine without a GPU."""

    def current_accelerator(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    def no_driver() -> int:
        raise RuntimeError("Found no NVIDIA driver on your system.")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    monkeypatch.setattr(torch.accelerator, "current_device_index", no_driver)


def test_a_cuda_build_without_a_gpu_builds_on_the_cpu(cuda_build: None, alone: None) -> None:
    config = make_transformer_config(MODEL)
    assert config.use_cpu_initialization
    built = build_model(MODEL, config, padded_vocab_size=64, pre_process=True, post_process=True)
    assert {parameter.device.type for parameter in built.parameters()} == {"cpu"}
    tokens = torch.arange(8)[None]
    assert torch.isfinite(built(tokens, tokens, None)).all()


def test_every_layer_of_ours_uses_the_device_that_is_passed() -> None:
    # The meta device stands for an accelerator: torch has it in every build.
    config = make_transformer_config(MODEL, device="meta")
    assert not config.use_cpu_initialization
    for kept in (config, copy.deepcopy(config), dataclasses.replace(config)):
        assert RMSNorm(kept, 8).weight.device.type == "meta"
        assert Weight(2, 3, config=kept, partition_dim=0).weight.device.type == "meta"
    named = make_transformer_config(MODEL, device=torch.device("cuda", 3))
    assert parameter_device(named) == torch.device("cuda", 3)


def test_initialisation_on_the_host_may_be_asked_for() -> None:
    config = make_transformer_config(MODEL, device="meta", use_cpu_initialization=True)
    assert RMSNorm(config, 8).weight.device.type == "cpu"


def test_a_configuration_without_a_device_is_refused() -> None:
    stock = TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1)
    with pytest.raises(ConfigError, match="does not name the device of their parameters"):
        RMSNorm(stock, 8)
    stock.use_cpu_initialization = True
    assert RMSNorm(stock, 8).weight.device.type == "cpu"


def test_the_device_is_no_setting_of_megatron_core() -> None:
    with pytest.raises(ConfigError, match="no field 'parameter_device'"):
        make_transformer_config(MODEL, parameter_device="cpu")


def test_what_megatron_core_makes_on_the_host_is_moved_with_its_marks(alone: None) -> None:
    config = make_transformer_config(MODEL, device="meta", perform_initialization=False)
    built = build_model(MODEL, config, padded_vocab_size=64, pre_process=True, post_process=True)
    assert {parameter.device.type for parameter in built.parameters()} == {"meta"}
    # megatron-core sums the gradients of marked parameters over the tensor-parallel ranks.
    assert hasattr(built.decoder.layers[0].mlp.router.weight, "sequence_parallel")


def test_a_shared_weight_stays_shared_when_it_is_moved() -> None:
    pair = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    pair[1].weight = pair[0].weight
    pair[0].weight.allreduce = False
    pair[0].bias.requires_grad_(False)
    pair.register_buffer("counts", torch.zeros(2))
    place(pair, torch.device("meta"))
    assert pair[1].weight is pair[0].weight
    assert pair[0].weight.allreduce is False
    assert not pair[0].bias.requires_grad
    assert {tensor.device.type for tensor in pair.state_dict().values()} == {"meta"}
