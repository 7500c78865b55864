"""Megatron's per-rank checkpoints (ModelLink's, Megatron-LM's): every tensor, layouts, errors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from model_checks import legacy
from model_checks.group import Group
from model_checks.legacy import VOCABULARY, arguments, as_parameters, guide, save_sliced, whole
from model_checks.reading import check_weights
from safetensors.torch import load_file

from ml_models import registry
from ml_models.cli import main
from ml_models.comparison import compare
from ml_models.conversion.convert import convert
from ml_models.conversion.open import guess_format, open_source
from ml_models.errors import WeightError
from ml_models.formats.megatron_ranks.source import MegatronRanksSource
from ml_models.weights.sink import SinkOptions

SMALL = SinkOptions(file_bytes=100_000, chunk_bytes=3_000)
GUIDE = (4, 2, 2, 1)


@pytest.mark.parametrize(
    ("sizes", "flat"),
    [(GUIDE, True), ((1, 1, 1, 1), False), ((2, 2, 4, 2), False), ((1, 4, 1, 2), True)],
    ids=str,
)
def test_every_tensor_in_any_layout(sizes: legacy.Sizes, flat: bool, tmp_path: Path) -> None:
    guide(tmp_path / "in", sizes, flat=flat)
    source = open_source(guess_format(tmp_path / "in"), tmp_path / "in")
    assert source.format == "megatron-legacy"
    assert source.model == registry.get("grok1-40b-guide").replace(
        num_layers=8,
        hidden_size=32,
        ffn_hidden_size=24,
        num_attention_heads=8,
        num_query_groups=4,
        kv_channels=4,
        num_experts=4,
        vocab_size=VOCABULARY,
        seq_length=32,
        attention_scale=0.5,
        embedding_multiplier_scale=5.5,
        output_multiplier_scale=0.5,
    )
    check_weights(source, as_parameters(whole(post_norm=True)))
    report = convert(source, "huggingface", tmp_path / "hf", SMALL)
    assert any("optimizer and random state were not read" in note for note in report["notes"])
    check_weights(open_source("huggingface", tmp_path / "hf"), as_parameters(whole(post_norm=True)))


def test_to_megatron_and_resumed(tmp_path: Path) -> None:
    iteration = guide(tmp_path / "in", (2, 2, 2, 1))

    class StopError(Exception):
        pass

    def interrupt(what: str, done: int, total: int) -> None:
        if 2 * done > total:
            raise StopError

    output = tmp_path / "out"
    with pytest.raises(StopError):
        convert(open_source("megatron", iteration), "megatron", output, SMALL, progress=interrupt)
    report = convert(open_source("megatron", iteration), "megatron", output, SMALL, resume=True)
    check_weights(open_source("megatron", output), as_parameters(whole(post_norm=True)))
    assert report["from"] == "megatron-legacy"
    assert all(entry["used"] == "once" for entry in report["sources"].values())
    kinds = {name.split("/")[0] for name in report["sources"]}
    assert kinds == {path.name for path in iteration.iterdir()}
    # embedding, output and 8 layers of 2 matrices on 2 tensor ranks, 33 norms and 8 routers on 4
    assert "159 tensors are copies" in " ".join(report["notes"])


def stacked(chunk: dict[str, Any]) -> dict[str, Any]:
    """GroupedMLP's names: it views weight1 as [E, H, 2F] and weight2 as [E, F, H]."""
    result = {name: value for name, value in chunk.items() if "local_experts" not in name}
    for layer in {name.split(".mlp")[0] for name in chunk if "local_experts" in name}:
        for number in (1, 2):
            key = f"{layer}.mlp.experts.local_experts.{{}}.linear_fc{number}.weight"
            matrices = [chunk[key.format(at)] for at in range(4) if key.format(at) in chunk]
            joined = torch.stack([matrix.T for matrix in matrices])
            shape = (legacy.HIDDEN, -1) if number == 1 else (-1, legacy.HIDDEN)
            result[f"{layer}.mlp.experts.weight{number}"] = joined.reshape(shape)
    return result


def transformer_engine(chunk: dict[str, Any]) -> dict[str, Any]:
    """TEGroupedMLP's names, and the norm that TE puts into linear_qkv."""
    result = {}
    for name, value in chunk.items():
        if "local_experts" in name and name.endswith(".weight"):
            start, rest = name.split("local_experts.")
            name = f"{start}{rest.split('.')[1]}.weight{rest.split('.')[0]}"
        name = name.replace("input_layernorm.weight", "self_attention.linear_qkv.layer_norm_weight")
        result[name] = value
    return result


@pytest.mark.parametrize("change", [stacked, transformer_engine])
def test_other_names_of_experts(change: Any, tmp_path: Path) -> None:
    guide(tmp_path / "in", (2, 2, 2, 1), change=change)
    check_weights(open_source("megatron", tmp_path / "in"), as_parameters(whole(post_norm=True)))


@pytest.mark.parametrize("sizes", [(2, 1, 2, 1), (1, 2, 2, 1), (2, 2, 1, 1), (1, 1, 4, 1)], ids=str)
def test_stock_megatron_cores_own_checkpoint(
    sizes: legacy.Sizes, tmp_path: Path, group4: Group
) -> None:
    ids = torch.arange(24).reshape(2, 12) * 7 % VOCABULARY
    logits = group4.run(legacy.save_stock, tmp_path, sizes, ids)[0]
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("5000")
    source = open_source("megatron", tmp_path)
    check_weights(source, as_parameters(whole(post_norm=False)))
    if logits is not None:
        result = compare(source, {"input_ids": ids, "logits": logits}, 1e-4)
        assert result["passed"], result


def test_the_guides_numbers(tmp_path: Path, alone: None) -> None:
    ids = torch.arange(24).reshape(2, 12) * 7 % VOCABULARY
    guide(tmp_path, (2, 2, 2, 1))
    reference = {"input_ids": ids, "logits": legacy.guide_logits(ids)}
    result = compare(open_source("megatron", tmp_path), reference, 1e-4)
    assert result["passed"], result


def test_padding_and_a_tied_copy(tmp_path: Path) -> None:
    sizes = (4, 2, 1, 1)
    tensors = whole(post_norm=True, padded=192)
    tensors["output_layer.weight"] = tensors["embedding.word_embeddings.weight"]
    tied = {"untie_embeddings_and_output_weights": False, "padded_vocab_size": 192}
    save_sliced(tmp_path / "in", tensors, arguments(sizes, post_norm=True, **tied), sizes)
    source = open_source("megatron", tmp_path / "in")
    assert any("102 rows beyond the vocabulary" in note for note in source.notes)
    expected = as_parameters(tensors)
    del expected["output_layer.weight"]
    check_weights(source, expected)
    tensors["output_layer.weight"] = tensors["output_layer.weight"] + 1e-6
    save_sliced(tmp_path / "in", tensors, arguments(sizes, post_norm=True, **tied), sizes)
    with pytest.raises(WeightError, match=r"mp_rank_00_000.*mp_rank_00_001.*differ by up to"):
        convert(open_source("megatron", tmp_path / "in"), "megatron", tmp_path / "out")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guide(tmp_path / "in", GUIDE)
    command = ["convert", "--from", "megatron", "--to", "huggingface", "--input"]
    command += [str(tmp_path / "in"), "--output", str(tmp_path / "hf")]
    assert main(command) == 0
    output_text = capsys.readouterr().out
    assert "weights alone" in output_text and "grok1 with 8 layers" in output_text
    stored = load_file(tmp_path / "hf" / "model.safetensors")
    assert torch.equal(
        stored["model.layers.5.post_attn_norm.scale"],
        whole(post_norm=True)["decoder.layers.5.post_attn_norm.weight"],
    )
    with pytest.raises(WeightError, match="no mp_rank_ folders"):
        MegatronRanksSource(tmp_path / "hf")
