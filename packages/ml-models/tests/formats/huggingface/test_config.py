"""config.json in the forms that people have: RoPE, names of the model, missing values."""

import json
from pathlib import Path
from typing import Any

import pytest
from model_checks.hugging_face_folder import copy_of_reference, edit_config, read_whole, weights

from ml_models.conversion.open import open_source, read_model_file
from ml_models.errors import MlModelsError
from ml_models.mixtral.config import mixtral_tiny
from ml_models.mixtral.hf_config import to_huggingface


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_of_reference(tmp_path / "in")


def mixtral(tmp_path: Path, *remove: str, **changes: Any) -> Path:
    values = {**to_huggingface(mixtral_tiny(), "bfloat16"), **changes}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({k: v for k, v in values.items() if k not in remove}))
    return path


PLAIN: list[tuple[dict[str, Any], float]] = [
    ({"rope_theta": None}, 1e6),
    ({"rope_theta": 5e5}, 5e5),
    ({"rope_theta": 10000, "rope_scaling": None}, 1e4),
    ({"rope_scaling": {"rope_type": "default"}}, 1e6),
    ({"rope_scaling": {"type": "default", "factor": 1.0}}, 1e6),
    ({"rope_scaling": {"type": "linear", "factor": 1.0}}, 1e6),
    ({"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 2e4}}, 2e4),
    ({"rope_theta": None, "rope_parameters": {"rope_theta": None}}, 1e6),
    ({"rope_theta": None, "rope_parameters": None}, 1e6),
]


@pytest.mark.parametrize(("changes", "base"), PLAIN)
def test_plain_rope(tmp_path: Path, changes: dict[str, Any], base: float) -> None:
    model = read_model_file(mixtral(tmp_path, **changes))
    assert model == mixtral_tiny().replace(rotary_base=base)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type yarn, factor 4.0"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "RoPE is scaled"),
        ({"rope_scaling": {"factor": 2.0}}, "RoPE is scaled"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters says rope_type llama3"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "RoPE is scaled"),
        ({"rope_scaling": "linear"}, "must be an object or null"),
        ({"rope_theta": "1e6"}, "must be a number above 0"),
        ({"rope_theta": -1}, "must be a number above 0"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, "contradict"),
        ({"sliding_window": "4096"}, "sliding_window"),
        ({"head_dim": "16"}, "head_dim"),
        ({"head_dim": None, "num_attention_heads": 0}, "no multiple of 0 heads"),
        ({"head_dim": None, "hidden_size": "64"}, "no multiple"),
        ({"num_hidden_layers": None}, "num_layers is None"),
        ({"tie_word_embeddings": "no"}, "must be true or false"),
        ({"initializer_range": None}, "init_method_std"),
    ],
)
def test_refused_in_one_sentence(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(MlModelsError) as error:
        read_model_file(mixtral(tmp_path, **changes))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_grok_1_reads_the_base_of_rope(folder: Path) -> None:
    edit_config(folder, rope_theta=None, rope_scaling={"rope_type": "default"})
    assert read_whole(folder).model.rotary_base == 10000.0
    edit_config(folder, rope_theta=500000)
    assert read_whole(folder).model.rotary_base == 500000.0
    edit_config(folder, rope_scaling={"rope_type": "yarn", "factor": 2.0})
    with pytest.raises(MlModelsError, match="RoPE is scaled"):
        open_source("huggingface", folder)


def test_as_many_key_heads_as_query_heads(tmp_path: Path) -> None:
    model = read_model_file(mixtral(tmp_path, num_key_value_heads=None))
    assert model.num_query_groups == model.num_attention_heads


@pytest.mark.parametrize(
    ("remove", "changes"),
    [
        (("architectures",), {}),
        ((), {"architectures": None}),
        ((), {"architectures": []}),
        ((), {"architectures": "Grok1ModelForCausalLM"}),
        (("architectures",), {"model_type": "grok-1"}),
        ((), {"torch_dtype": "torch.bfloat16"}),
        (("torch_dtype",), {"dtype": "auto"}),
    ],
)
def test_grok_1_is_known_without_its_name(
    folder: Path, remove: tuple[str, ...], changes: dict[str, Any]
) -> None:
    edit_config(folder, *remove, **changes)
    read_whole(folder)


def test_a_null_tie_is_each_models_own(folder: Path, tmp_path: Path) -> None:
    edit_config(folder, tie_word_embeddings=None)
    assert not read_whole(folder).model.untie_embeddings_and_output_weights
    path = mixtral(tmp_path, tie_word_embeddings=None)
    assert read_model_file(path).untie_embeddings_and_output_weights


@pytest.mark.parametrize(
    ("remove", "changes"),
    [(("model_type",), {}), (("architectures",), {}), (("torch_dtype",), {"dtype": "float32"})],
)
def test_mixtral_is_known_by_either_name(
    tmp_path: Path, remove: tuple[str, ...], changes: dict[str, Any]
) -> None:
    assert read_model_file(mixtral(tmp_path, *remove, **changes)) == mixtral_tiny()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": None}, "neither architectures nor model_type"),
        ({"architectures": {"a": 1}}, "neither architectures nor model_type"),
        ({"architectures": None, "model_type": "llama"}, "it describes llama"),
        ({"architectures": ["LlamaForCausalLM"]}, "it describes LlamaForCausalLM"),
    ],
)
def test_another_models_config(folder: Path, changes: dict[str, Any], says: str) -> None:
    edit_config(folder, "max_attn_value", **changes)
    with pytest.raises(MlModelsError, match=says):
        open_source("huggingface", folder)


def test_no_config_and_a_damaged_one(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(MlModelsError, match=r"config\.json: not a readable JSON"):
        open_source("huggingface", folder)
    (folder / "config.json").unlink()
    with pytest.raises(MlModelsError, match=r"no config\.json.*--model or --config"):
        open_source("huggingface", folder)


def test_a_configuration_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    """--config, where the folder has none or a damaged one."""
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text((folder / "config.json").read_text())
    expected = read_whole(folder).model
    for text in ("{", None):
        (folder / "config.json").write_text(text) if text else (folder / "config.json").unlink()
        source = open_source("huggingface", folder, config=elsewhere)
        assert source.model == expected and len(source.tensors) == len(weights())
