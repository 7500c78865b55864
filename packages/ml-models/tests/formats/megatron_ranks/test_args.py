"""The arguments in per-rank files: layouts and models that are read, and those that are not."""

import json
from pathlib import Path

import pytest
from model_checks.legacy import arguments, guide, save_sliced, whole

from ml_models import registry
from ml_models.conversion.open import open_source
from ml_models.errors import ConfigError, MlModelsError, WeightError
from ml_models.formats.megatron.args import check_model, derive_model
from ml_models.formats.megatron_ranks.layout import Layout, layout_of


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layer_list": "3,5"}, "num_layer_list is '3,5'"),
        ({"noop_layers": "0"}, "noop_layers is '0'"),
        ({"expert_tensor_parallel_size": 1}, "expert_tensor_parallel_size is 1"),
        ({"moe_tp_extend_ep": True}, "moe_tp_extend_ep is True"),
        ({"add_qkv_bias": True}, "add_qkv_bias is True"),
        ({"normalization": "LayerNorm"}, "normalization is 'LayerNorm'"),
        ({"swiglu": False}, "activation 'gelu'"),
        ({"attn_logit_softcapping": 30.0}, "attention_logit_cap 30.0"),
        ({"moe_router_load_balancing_type": "sinkhorn"}, "renormalize_topk 'sinkhorn'"),
        ({"vocab_size": None}, "do not say vocab_size; name the model"),
        ({"tensor_model_parallel_size": None}, "tensor_model_parallel_size is None"),
        ({"num_experts": 3}, r"superfluous \(mp_rank_00/.*local_experts\.3"),
        ({"num_layers": 9}, r"missing \(mp_rank_00/decoder\.layers\.8"),
        ({"ffn_hidden_size": 22}, r"linear_fc1\.weight is \[24, 32\], .* makes it \[22, 32\]"),
        ({"padded_vocab_size": 128}, r"word_embeddings\.weight is \[48, 32\], .* it \[64, 32\]"),
        ({"padded_vocab_size": 88}, "44 rows on each of 2 tensor ranks, .* 90 entries"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_args_that_are_not_read(changes: dict, message: str, tmp_path: Path) -> None:
    sizes = (2, 1, 1, 1)
    args = arguments(sizes, post_norm=True, **changes)
    save_sliced(tmp_path / "in", whole(post_norm=True), args, sizes)
    with pytest.raises(MlModelsError, match=message):
        open_source("megatron", tmp_path / "in")


def test_the_args_of_the_guides_script() -> None:
    """What Megatron and ModelLink make of its flags is grok1-40b-guide, in every field."""
    settings = json.loads((Path(__file__).parents[2] / "data/megatron/guide_args.json").read_text())
    model = derive_model(settings, "args")
    assert model == registry.get("grok1-40b-guide")
    check_model(settings, model, "args")
    assert layout_of(settings, "args") == Layout(tp=4, pp=2, ep=2, vp=1)
    september = {**settings, "num_layers": 12, "tensor_model_parallel_size": 8}
    assert derive_model(september, "args") == model.replace(num_layers=12)
    with pytest.raises(WeightError, match="num_layers 8, the model has 12"):
        check_model(settings, model.replace(num_layers=12), "args")


def test_a_model_that_the_args_contradict(tmp_path: Path) -> None:
    guide(tmp_path / "in")
    with pytest.raises(WeightError, match="num_layers 8, the model has 4"):
        open_source("megatron", tmp_path / "in", name="grok1-tiny")
    derived = open_source("megatron", tmp_path / "in").model
    for field, value in (
        ("activation", "gelu_tanh"),
        ("renormalize_topk", False),
        ("attention_logit_cap", 30.0),
        ("post_norms", False),
        ("rotary_base", 5e5),
        ("embedding_multiplier_scale", 1.0),
    ):
        config = tmp_path / "config.json"
        config.write_text(json.dumps(derived.replace(**{field: value}).to_dict()))
        with pytest.raises(WeightError, match=f"say {field}"):
            open_source("megatron", tmp_path / "in", config=config)
    config.write_text(json.dumps(derived.to_dict()))
    assert open_source("megatron", tmp_path / "in", config=config).model == derived
    with pytest.raises(ConfigError, match="--variant"):
        open_source("megatron", tmp_path / "in", variant="hpcai")
