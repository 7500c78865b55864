"""docs/add-a-model.md, followed: its files as they stand there, against transformers."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from model_checks.group import Group
from model_checks.process import add_path
from model_checks.round_trip import there_and_back
from model_checks.step import initial_weights, run_step
from model_checks.written_pages import install, write_files
from safetensors.torch import load_file, save_file

from ml_models import registry
from ml_models.conversion.open import formats_of, open_source
from ml_models.errors import ConfigError, WeightError
from ml_models.formats.megatron.args import check_model, derive_model
from ml_models.weights.boxes import Box
from ml_models.weights.source import Reader

DOCUMENT = Path(__file__).parents[3] / "docs" / "add-a-model.md"
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("plugin")
    files = write_files(DOCUMENT, folder)
    modules = ("config", "spec", "weights", "hf_config", "megatron_args")
    assert set(files) == {"pyproject.toml", *(f"llama_lm/{name}.py" for name in modules)}
    install(folder)
    add_path(str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def saved(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama, written by transformers, with its numbers in `ref`."""
    model = registry.get("llama-tiny")
    torch.manual_seed(0)
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=model.vocab_size,
            hidden_size=model.hidden_size,
            intermediate_size=model.ffn_hidden_size,
            num_hidden_layers=model.num_layers,
            num_attention_heads=model.num_attention_heads,
            num_key_value_heads=model.num_query_groups,
            max_position_embeddings=model.seq_length,
            rms_norm_eps=model.norm_epsilon,
            rope_theta=20000.0,
            initializer_range=0.2,
            tie_word_embeddings=True,
        )
    ).float()
    folder = tmp_path_factory.mktemp("llama")
    llama.save_pretrained(folder)
    ids = torch.randint(0, model.vocab_size, (2, 24))
    output = llama(ids, labels=ids)
    output.loss.backward()
    numbers = {"input_ids": ids, "logits": output.logits.detach(), "loss": output.loss.detach()}
    numbers |= {f"grad.{key}": value.grad for key, value in llama.named_parameters()}
    save_file({key: value.contiguous() for key, value in numbers.items()}, folder / "ref")
    return folder


def test_its_names_are_known_to_the_command(plugin: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(plugin)!r}); from ml_models.cli import main; "
    code += "sys.exit(main(['show', 'llama-tiny']))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "the package llama_lm" in result.stdout and "router" in result.stdout
    model = registry.get("llama-tiny")
    assert registry.from_dict(model.to_dict()) == model


def test_there_and_back(saved: Path, tmp_path: Path) -> None:
    there_and_back(saved, tmp_path, transformers.LlamaForCausalLM)


def test_numbers(saved: Path) -> None:
    from ml_models.comparison import compare

    result = compare(open_source("huggingface", saved), load_file(saved / "ref"), 1e-4)
    assert result["passed"] and result["not_compared"] == []
    assert all(entry["within"] for entry in result["groups"].values()), result
    assert result["groups"]["grad"]["tensors"] == 2 + 9 * 2


def test_training_step_in_layouts(saved: Path, plugin: Path, group4: Group) -> None:
    group4.run(add_path, str(plugin))
    source = open_source("huggingface", saved)
    model, reference = source.model, load_file(saved / "ref")
    reader = Reader(source)
    shapes = source.weights.parameter_shapes
    weights = {name: reader.read(name, Box.whole(shape)) for name, shape in shapes.items()}
    ids = reference["input_ids"]
    expected = group4.run(run_step, model, weights, ids, (1, 1, 1, 1))[0]
    first = group4.run(initial_weights, model, (1, 1, 1, 1))[0]
    for sizes in ((2, 1, 1, 1), (2, 2, 1, 1)):
        result = group4.run(run_step, model, weights, ids, sizes)[0]
        torch.testing.assert_close(result["loss"], reference["loss"], rtol=1e-5, atol=0)
        for key in (key for key in expected if key.startswith("grad.")):
            error = (result[key] - expected[key]).norm() / expected[key].norm()
            assert error < 1e-5, (sizes, key, float(error))
        other = group4.run(initial_weights, model, sizes)[0]
        assert all(torch.equal(first[key], other[key]) for key in first)


SETTINGS = {
    **{"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "kv_channels": 16},
    **{"vocab_size": 256, "norm_epsilon": 1e-5, "untie_embeddings_and_output_weights": False},
    **{"ffn_hidden_size": 96, "group_query_attention": True, "num_query_groups": 2},
    **{"max_position_embeddings": 64, "init_method_std": 0.02, "swiglu": True},
    **{"normalization": "RMSNorm", "position_embedding_type": "rope", "add_bias_linear": False},
    **{"rotary_base": 500000, "num_experts": None},
}
"""Arguments of a Megatron run that trains llama-tiny."""


def test_its_model_in_megatrons_arguments(plugin: Path) -> None:
    model = derive_model(SETTINGS, "args")
    assert model == registry.get("llama-tiny")
    check_model(SETTINGS, model, "args")
    for changes, says in (
        ({"swiglu": False}, "activation 'gelu', the model has 'silu'"),
        ({"post_norm": True}, "post_norms True, the model has False"),
        ({"num_layers": 3}, "num_layers 3, the model has 2"),
        ({"qk_layernorm": True}, "qk_layernorm is True"),
    ):
        with pytest.raises(WeightError, match=says):
            check_model({**SETTINGS, **changes}, model, "args")
    with pytest.raises(WeightError, match="do not say vocab_size"):
        derive_model({**SETTINGS, "vocab_size": None}, "args")
    # The args of a mixture of experts are still Mixtral's.
    experts = {"num_experts": 4, "moe_router_topk": 2, "moe_router_load_balancing_type": "none"}
    assert derive_model({**SETTINGS, **experts}, "args").architecture == "mixtral"


def test_its_variant(saved: Path, plugin: Path) -> None:
    assert registry.variants() == ["xai", "hpcai", "gelu-tanh", "gelu-exact", "llama2"]
    assert registry.formats() == ["huggingface", "xai", "presharded", "megatron"]
    assert open_source("huggingface", saved).model.rotary_base == 20000.0
    assert open_source("huggingface", saved, variant="llama2").model.rotary_base == 10000.0
    with pytest.raises(ConfigError, match="--variant is 'xai'; known: llama2"):
        open_source("huggingface", saved, variant="xai")
    with pytest.raises(ConfigError, match="--variant is llama2; mixtral has no variants"):
        registry.with_variant(registry.get("mixtral-tiny"), "llama2")


def test_an_architecture_that_cannot_be_taken(plugin: Path, tmp_path: Path) -> None:
    entry = registry.architecture(registry.get("llama-tiny"))
    with pytest.raises(ConfigError, match="'llama' is taken by the package llama_lm"):
        registry.register(entry)
    with pytest.raises(
        WeightError, match="describes gpt2; grok1, grok2, mixtral, llama can be converted"
    ):
        (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
        open_source("huggingface", tmp_path)
    broken = tmp_path / "broken-1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Name: broken\nVersion: 1\n")
    (broken / "entry_points.txt").write_text("[ml_models.architectures]\nbroken = nowhere:IT\n")
    add_path(str(tmp_path))
    try:
        with pytest.raises(ConfigError, match="architecture broken: nowhere:IT: No module"):
            registry.names()
        assert registry.get("grok1-tiny")
        assert registry.variants() == ["xai", "hpcai", "gelu-tanh", "gelu-exact", "llama2"]
        assert formats_of(tmp_path) == []
    finally:
        sys.path.remove(str(tmp_path))
