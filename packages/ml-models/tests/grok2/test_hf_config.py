"""Grok-2's config.json: the release's keys both ways, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ml_models import registry
from ml_models.conversion.open import read_model_file
from ml_models.errors import MlModelsError
from ml_models.grok2.config import Grok2Config
from ml_models.grok2.hf_config import notes, to_huggingface
from ml_models.weights.maps import build_map

DATA = Path(__file__).parents[1] / "data" / "grok2"
FOLDERS = ("g2_a", "g2_b", "g2_tp/plain", "g2_tp/presharded_tp2")


def values_of(folder: str) -> dict[str, Any]:
    return json.loads((DATA / folder / "config.json").read_text())


def written(tmp_path: Path, *remove: str, **changes: Any) -> Path:
    values = {**values_of("g2_b"), **changes}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({key: value for key, value in values.items() if key not in remove}))
    return path


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_release_file_is_read_and_written_alike(folder: str) -> None:
    values = values_of(folder)
    model = read_model_file(DATA / folder / "config.json")
    again = to_huggingface(model, values["torch_dtype"])
    # The release leaves this key out, which vLLM takes for a tied output.
    assert again.pop("tie_word_embeddings") is False
    assert again == values


def test_the_head_size_is_a_field_of_its_own() -> None:
    model = read_model_file(DATA / "g2_b" / "config.json")
    assert isinstance(model, Grok2Config)
    assert model.kv_channels == 24 != model.hidden_size // model.num_attention_heads
    assert model.attention_scale == 24**-0.5
    assert model.gelu == "tanh" and model.untie_embeddings_and_output_weights


def test_the_released_model(tmp_path: Path) -> None:
    release = registry.get("grok2-270b")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_huggingface(release, "bfloat16")))
    assert read_model_file(path) == release
    assert json.loads(path.read_text())["rope_theta"] == 208533496


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"attn_temperature_len": -1}, {"attention_temperature_length": None}),
        ({"attn_temperature_len": None}, {"attention_temperature_length": None}),
        ({"router_logit_softcapping": 0}, {"router_logit_cap": None}),
        ({"final_logit_softcapping": None}, {"final_logit_cap": None}),
        ({"tie_word_embeddings": True}, {"untie_embeddings_and_output_weights": False}),
        ({"rope_type": None}, {}),
        ({"rope_scaling": {"rope_type": "original", "factor": 16.0}}, {}),
        ({"rope_theta": 1e6}, {"rotary_base": 1e6}),
        ({"architectures": None}, {}),
        ({"model_type": "grok2", "architectures": None}, {}),
        ({"architectures": ["Grok1ModelForCausalLM"]}, {}),
    ],
)
def test_forms_of_the_file(tmp_path: Path, changes: dict[str, Any], fields: dict[str, Any]) -> None:
    expected = read_model_file(DATA / "g2_b" / "config.json").replace(**fields)
    assert read_model_file(written(tmp_path, **changes)) == expected


@pytest.mark.parametrize(
    ("remove", "changes", "says"),
    [
        ((), {"rope_type": "yarn"}, "rope_type is 'yarn'; it must be original"),
        ((), {"rope_scaling": {"rope_type": "yarn", "factor": 16.0}}, "rope_type yarn"),
        ((), {"rope_parameters": {"rope_type": "yarn"}}, "rope_type yarn"),
        ((), {"residual_moe": False}, "residual_moe is False; it must be true"),
        ((), {"sliding_window_size": 4096}, "sliding_window_size is 4096"),
        ((), {"attn_output_multiplier": 1.0}, "attn_output_multiplier is 1.0"),
        ((), {"attn_temperature_len": 1024.5}, "attn_temperature_len is 1024.5"),
        ((), {"attn_temperature_len": 1}, "attention_temperature_length is 1"),
        ((), {"router_logit_softcapping": "30"}, "router_logit_cap is '30'"),
        ((), {"hidden_act": "silu"}, "hidden_act is 'silu'"),
        (("moe_intermediate_size",), {}, "moe_intermediate_size missing"),
        (("rope_theta",), {}, "rope_theta missing"),
        (("attn_temperature_len",), {}, "attn_temperature_len missing"),
        (
            ("router_logit_softcapping", "residual_moe", "attn_temperature_len"),
            {},
            "router_logit_softcapping, attn_temperature_len, residual_moe missing; it is no Grok-2",
        ),
    ],
)
def test_refused_in_one_sentence(
    tmp_path: Path, remove: tuple[str, ...], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(MlModelsError) as error:
        read_model_file(written(tmp_path, *remove, **changes))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_file_without_any_field_of_grok_2_says_so(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    names = {"architectures": ["Grok1ForCausalLM"], "model_type": "git"}
    path.write_text(json.dumps({**names, "hidden_size": 64}))
    with pytest.raises(MlModelsError, match="it is no Grok-2 config.json"):
        read_model_file(path)


def test_grok_1_stays_grok_1() -> None:
    folder = DATA.parent / "grok1" / "hf_a"
    assert read_model_file(folder / "config.json").architecture == "grok1"


def test_what_the_file_cannot_say_is_kept_and_told(tmp_path: Path) -> None:
    model = read_model_file(DATA / "g2_a" / "config.json").replace(gelu="exact")
    assert isinstance(model, Grok2Config)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_huggingface(model, "float32")))
    assert read_model_file(path) == model
    assert "gelu is exact" in notes(model)[0]
    assert notes(model.replace(gelu="tanh")) == []
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_theta": 1e4}))
    with pytest.raises(MlModelsError, match="contradict"):
        read_model_file(path)


@pytest.mark.parametrize("folder", ["g2_a", "g2_b", "g2_tp/plain"])
def test_the_weight_map_names_every_tensor_of_the_file(folder: str) -> None:
    model = read_model_file(DATA / folder / "config.json")
    tables = registry.architecture(model).weights()
    weights = build_map(tables.huggingface_rows(model), tables.shapes(model), model)
    tensors = load_file(DATA / folder / "model.safetensors")
    stored = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    assert stored == dict(weights.tensor_shapes)
