"""Megatron's per-rank checkpoints (ModelLink's, Megatron-LM's): every tensor, layouts, errors."""

import json
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from model_checks import legacy
from model_checks.group import Group
from model_checks.legacy import VOCABULARY, arguments, ours, save_sliced, whole
from model_checks.reading import check_weights
from safetensors.torch import load_file

from ml_models import registry
from ml_models.cli import main
from ml_models.comparison import compare
from ml_models.conversion.convert import convert
from ml_models.conversion.open import guess_format, open_source
from ml_models.errors import ConfigError, MlModelsError, WeightError
from ml_models.formats.megatron.args import check_model, derive_model
from ml_models.formats.megatron_ranks.layout import Layout, layout_of
from ml_models.formats.megatron_ranks.source import MegatronRanksSource
from ml_models.weights.boxes import Box
from ml_models.weights.sink import SinkOptions
from ml_models.weights.source import Reader

SMALL = SinkOptions(file_bytes=100_000, chunk_bytes=3_000)
GUIDE = (4, 2, 2, 1)


def guide(folder: Path, sizes: legacy.Sizes = (2, 1, 1, 1), **options: Any) -> Path:
    """A small model of the guide's kind; returns the folder of the iteration."""
    args = arguments(sizes, post_norm=True)
    return save_sliced(folder, whole(post_norm=True), args, sizes, **options)


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
    check_weights(source, ours(whole(post_norm=True)))
    report = convert(source, "huggingface", tmp_path / "hf", SMALL)
    assert any("optimizer and random state were not read" in note for note in report["notes"])
    check_weights(open_source("huggingface", tmp_path / "hf"), ours(whole(post_norm=True)))


def test_to_megatron_and_resumed(tmp_path: Path) -> None:
    iteration = guide(tmp_path / "in", (2, 2, 2, 1))

    class Stop(Exception):
        pass

    def interrupt(what: str, done: int, total: int) -> None:
        if 2 * done > total:
            raise Stop

    output = tmp_path / "out"
    with pytest.raises(Stop):
        convert(open_source("megatron", iteration), "megatron", output, SMALL, progress=interrupt)
    report = convert(open_source("megatron", iteration), "megatron", output, SMALL, resume=True)
    check_weights(open_source("megatron", output), ours(whole(post_norm=True)))
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
            held = [chunk[key.format(at)] for at in range(4) if key.format(at) in chunk]
            joined = torch.stack([matrix.T for matrix in held])
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
    check_weights(open_source("megatron", tmp_path / "in"), ours(whole(post_norm=True)))


@pytest.mark.parametrize("sizes", [(2, 1, 2, 1), (1, 2, 2, 1), (2, 2, 1, 1), (1, 1, 4, 1)], ids=str)
def test_stock_megatron_cores_own_checkpoint(
    sizes: legacy.Sizes, tmp_path: Path, group4: Group
) -> None:
    ids = torch.arange(24).reshape(2, 12) * 7 % VOCABULARY
    found = group4.run(legacy.save_stock, tmp_path, sizes, ids)[0]
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("5000")
    source = open_source("megatron", tmp_path)
    check_weights(source, ours(whole(post_norm=False)))
    if found is not None:
        result = compare(source, {"input_ids": ids, "logits": found}, 1e-4)
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
    expected = ours(tensors)
    del expected["output_layer.weight"]
    check_weights(source, expected)
    tensors["output_layer.weight"] = tensors["output_layer.weight"] + 1e-6
    save_sliced(tmp_path / "in", tensors, arguments(sizes, post_norm=True, **tied), sizes)
    with pytest.raises(WeightError, match=r"mp_rank_00_000.*mp_rank_00_001.*differ by up to"):
        convert(open_source("megatron", tmp_path / "in"), "megatron", tmp_path / "out")


def change_file(path: Path, **changes: Any) -> None:
    """Write one rank's file again with other entries."""
    state = torch.load(path, weights_only=False)
    torch.save({**state, **changes}, path)


def change_tensor(path: Path, name: str, change: Any) -> None:
    """Write one rank's file again with another tensor; None removes it."""
    state = torch.load(path, weights_only=False)
    model = dict(state["model"])
    value = change(model.get(name))
    model = {**model, name: value} if value is not None else model
    if value is None:
        del model[name]
    change_file(path, model=model)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("decoder.layers.3.post_attn_norm.weight", "mp_rank_01_001_000"),
        ("decoder.layers.2.mlp.router.weight", "mp_rank_01_000_001"),
        ("decoder.layers.0.self_attention.linear_qkv.weight", "mp_rank_00_001_001"),
        ("embedding.word_embeddings.weight", "mp_rank_01_000_001"),
    ],
)
def test_copies_that_differ_are_named(name: str, where: str, tmp_path: Path) -> None:
    iteration = guide(tmp_path / "in", (2, 2, 2, 1))
    change_tensor(iteration / where / "model_optim_rng.pt", name, lambda value: value * 1.001)
    with pytest.raises(WeightError, match="differ by up to") as raised:
        convert(open_source("megatron", iteration), "megatron", tmp_path / "out")
    assert name in str(raised.value) and where in str(raised.value)
    assert not (tmp_path / "out").exists()


def missing_rank(iteration: Path) -> None:
    shutil.rmtree(iteration / "mp_rank_01_000_001")


def missing_file(iteration: Path) -> None:
    (iteration / "mp_rank_01_001_001" / "model_optim_rng.pt").unlink()


def superfluous_rank(iteration: Path) -> None:
    shutil.copytree(iteration / "mp_rank_00_000_000", iteration / "mp_rank_02_000_000")


def truncated(iteration: Path) -> None:
    path = iteration / "mp_rank_00_001_000" / "model_optim_rng.pt"
    path.write_bytes(path.read_bytes()[:-1000])


def old_format(iteration: Path) -> None:
    path = iteration / "mp_rank_00_000_000" / "model_optim_rng.pt"
    torch.save({"model": {}}, path, _use_new_zipfile_serialization=False)


def another_iteration(iteration: Path) -> None:
    change_file(iteration / "mp_rank_01_000_000" / "model_optim_rng.pt", iteration=4000)


def another_version(iteration: Path) -> None:
    change_file(iteration / "mp_rank_01_000_000" / "model_optim_rng.pt", checkpoint_version=1.0)


def another_layout(iteration: Path) -> None:
    args = arguments((4, 2, 2, 1), post_norm=True)
    change_file(iteration / "mp_rank_01_000_000" / "model_optim_rng.pt", args=args)


def extra_tensor(iteration: Path) -> None:
    path = iteration / "mp_rank_01_000_000" / "model_optim_rng.pt"
    change_tensor(path, "decoder.layers.0.mlp.shared.weight", lambda _: torch.ones(3))


def missing_tensor(iteration: Path) -> None:
    path = iteration / "mp_rank_01_001_000" / "model_optim_rng.pt"
    change_tensor(path, "decoder.layers.1.mlp.router.weight", lambda _: None)


def another_shape(iteration: Path) -> None:
    path = iteration / "mp_rank_01_001_000" / "model_optim_rng.pt"
    change_tensor(path, "decoder.layers.1.mlp.router.weight", lambda value: value[:3].clone())


def transposed_tensor(iteration: Path) -> None:
    path = iteration / "mp_rank_01_001_000" / "model_optim_rng.pt"
    change_tensor(path, "decoder.layers.1.mlp.router.weight", lambda value: value.T)


def no_model(iteration: Path) -> None:
    path = iteration / "mp_rank_00_000_000" / "model_optim_rng.pt"
    state = torch.load(path, weights_only=False)
    del state["model"]
    torch.save(state, path)


def classic_model(iteration: Path) -> None:
    path = iteration / "mp_rank_00_000_000" / "model_optim_rng.pt"
    change_file(path, model={"language_model": {}})


FAULTS = {
    missing_rank: r"mp_rank_01_000_001 is missing.*TP 2, PP 2, EP 2",
    missing_file: r"mp_rank_01_001_001/model_optim_rng\.pt: missing",
    superfluous_rank: r"mp_rank_02_000_000 is superfluous.*TP 2, PP 2, EP 2",
    truncated: r"mp_rank_00_001_000.*truncated",
    old_format: r"mp_rank_00_000_000.*before 1\.6",
    another_iteration: r"mp_rank_01_000_000.*iteration 4000.*mp_rank_00_000_000.*iteration 5000",
    another_version: r"checkpoint_version is 1\.0; 3\.0 is read",
    another_layout: r"mp_rank_01_000_000.*TP 4.*mp_rank_00_000_000.*TP 2",
    extra_tensor: r"superfluous.*mp_rank_01_000_000/decoder\.layers\.0\.mlp\.shared\.weight",
    missing_tensor: r"missing.*mp_rank_01_001_000/decoder\.layers\.1\.mlp\.router\.weight",
    another_shape: r"mp_rank_01_001_000/decoder\.layers\.1\.mlp\.router\.weight is \[3, 32\]",
    transposed_tensor: r"mp_rank_01_001_000.*router\.weight is no plain tensor",
    no_model: r"no model in it, but args",
    classic_model: r"language_model.*--use-mcore-models",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_are_one_sentence(
    fault: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    iteration = guide(tmp_path / "in", (2, 2, 2, 1))
    fault(iteration)
    with pytest.raises(WeightError, match=FAULTS[fault]) as raised:
        open_source("megatron", tmp_path / "in")
    assert "\n" not in str(raised.value)
    command = ["convert", "--from", "megatron", "--to", "megatron", "--input", str(iteration)]
    assert main([*command, "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


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
    said = json.loads((Path(__file__).parents[2] / "data/megatron/guide_args.json").read_text())
    model = derive_model(said, "args")
    assert model == registry.get("grok1-40b-guide")
    check_model(said, model, "args")
    assert layout_of(said, "args") == Layout(tp=4, pp=2, ep=2, vp=1)
    september = {**said, "num_layers": 12, "tensor_model_parallel_size": 8}
    assert derive_model(september, "args") == model.replace(num_layers=12)
    with pytest.raises(WeightError, match="num_layers 8, the model has 12"):
        check_model(said, model.replace(num_layers=12), "args")


def test_a_model_that_the_args_contradict(tmp_path: Path) -> None:
    guide(tmp_path / "in")
    with pytest.raises(WeightError, match="num_layers 8, the model has 4"):
        open_source("megatron", tmp_path / "in", name="grok1-tiny")
    found = open_source("megatron", tmp_path / "in").model
    for field, value in (
        ("activation", "gelu_tanh"),
        ("renormalize_topk", False),
        ("attention_logit_cap", 30.0),
        ("post_norms", False),
        ("rotary_base", 5e5),
        ("embedding_multiplier_scale", 1.0),
    ):
        config = tmp_path / "config.json"
        config.write_text(json.dumps(found.replace(**{field: value}).to_dict()))
        with pytest.raises(WeightError, match=f"say {field}"):
            open_source("megatron", tmp_path / "in", config=config)
    config.write_text(json.dumps(found.to_dict()))
    assert open_source("megatron", tmp_path / "in", config=config).model == found
    with pytest.raises(ConfigError, match="--variant"):
        open_source("megatron", tmp_path / "in", variant="hpcai")


class Command:
    """Pickles to a call of os.system."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("entry", ["args", "optimizer", "model", "iteration"])
def test_a_hostile_pickle_is_refused(entry: str, tmp_path: Path) -> None:
    iteration = guide(tmp_path / "in", (1, 1, 1, 1))
    mark = tmp_path / "mark"
    path = iteration / "mp_rank_00" / "model_optim_rng.pt"
    change_file(path, **{entry: {"a": Command(mark)}})
    with pytest.raises(WeightError, match=r"posix\.system, which is not allowed"):
        open_source("megatron", iteration)
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["cut", "bit", "byte of the pickle", "byte of the index", "gap"])
def test_a_damaged_file_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    """Whatever is wrong with the file, it is a WeightError or another model's, never a crash."""
    sizes = (1, 1, 1, 1)
    args = arguments(sizes, post_norm=True, num_layers=1)
    iteration = save_sliced(tmp_path, whole(post_norm=True, layers=1), args, sizes)
    path = iteration / "mp_rank_00" / "model_optim_rng.pt"
    data, chance, refused = path.read_bytes(), random.Random(kind), 0
    begin, index = data.find(b"data.pkl"), data.find(b"PK\x01\x02")
    for _ in range(40):
        changed = bytearray(data)
        if kind == "cut":
            del changed[chance.randrange(len(data)) :]
        elif kind == "bit":
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif kind == "byte of the pickle":
            changed[begin + chance.randrange(9000)] = chance.randrange(256)
        elif kind == "byte of the index":
            changed[chance.randrange(index, len(data))] = chance.randrange(256)
        else:
            at = chance.randrange(len(data))
            del changed[at : at + chance.randrange(1, 200)]
        path.write_bytes(changed)
        try:
            source = open_source("megatron", iteration)
            for name, shape in source.weights.parameter_shapes.items():
                Reader(source).read(name, Box.whole(shape))
        except MlModelsError:
            refused += 1
    assert refused > (0 if kind == "bit" else 10)


def test_the_file_is_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide(tmp_path / "in")

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a library unpickles")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    check_weights(open_source("megatron", tmp_path / "in"), ours(whole(post_norm=True)))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guide(tmp_path / "in", GUIDE)
    command = ["convert", "--from", "megatron", "--to", "huggingface", "--input"]
    command += [str(tmp_path / "in"), "--output", str(tmp_path / "hf")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "weights alone" in said and "grok1 with 8 layers" in said
    stored = load_file(tmp_path / "hf" / "model.safetensors")
    assert torch.equal(
        stored["model.layers.5.post_attn_norm.scale"],
        whole(post_norm=True)["decoder.layers.5.post_attn_norm.weight"],
    )
    with pytest.raises(WeightError, match="no mp_rank_ folders"):
        MegatronRanksSource(tmp_path / "hf")
