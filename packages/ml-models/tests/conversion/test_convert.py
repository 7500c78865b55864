"""Conversion between the three formats: bits, audit, resuming, errors."""

import hashlib
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_checks.references import DATA, HUGGING_FACE, XAI, config_of, weights_of
from safetensors.torch import load_file, save_file

from ml_models import registry
from ml_models.conversion import convert as engine
from ml_models.conversion.convert import convert
from ml_models.conversion.open import guess_format, open_source
from ml_models.errors import ConfigError, MlModelsError, WeightError
from ml_models.files.integrity import verify_integrity
from ml_models.formats.megatron.source import MegatronSource
from ml_models.weights.boxes import Box
from ml_models.weights.maps import build_map
from ml_models.weights.sink import SinkOptions
from ml_models.weights.source import Reader

SMALL = SinkOptions(file_bytes=200_000, chunk_bytes=3_000)


def open_reference(name: str):  # type: ignore[no-untyped-def]
    if name in XAI:
        return open_source("xai", DATA / name / "ckpt-0")
    return open_source("huggingface", DATA / name)


@pytest.mark.parametrize("name", HUGGING_FACE + XAI)
def test_to_megatron_equals_an_independent_map(name: str, tmp_path: Path) -> None:
    convert(open_reference(name), "megatron", tmp_path / "mcore", SMALL)
    assert verify_integrity(tmp_path / "mcore", checksums=True) == []
    source = MegatronSource(tmp_path / "mcore")
    expected = weights_of(name, config_of(name, "gelu_tanh"))
    assert source.model == config_of(name, "gelu_tanh")
    assert set(source.tensors) == set(expected)
    for key, tensor in expected.items():
        found = source.read(key, Box.whole(tuple(tensor.shape)))
        assert torch.equal(found.float(), tensor), key


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_there_and_back_is_bit_identical(name: str, tmp_path: Path) -> None:
    convert(open_reference(name), "megatron", tmp_path / "mcore", SMALL)
    back = open_source("megatron", tmp_path / "mcore")
    convert(back, "huggingface", tmp_path / "back", SinkOptions(chunk_bytes=5_000))
    before = load_file(DATA / name / "model.safetensors")
    before.pop("lm_head.weight", None)
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert set(before) == set(after)
    for key, tensor in before.items():
        assert after[key].dtype == tensor.dtype
        assert torch.equal(after[key].view(torch.uint8), tensor.view(torch.uint8)), key
    config = json.loads((DATA / name / "config.json").read_text())
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    same = set(config) - {"torch_dtype", "transformers_version"}
    assert {key: written[key] for key in same} == {key: config[key] for key in same}


@pytest.mark.parametrize("name", XAI)
def test_xai_tensors_have_the_published_checksums(name: str, tmp_path: Path) -> None:
    report = convert(open_reference(name), "huggingface", tmp_path / "hf", SMALL)
    wanted = json.loads((DATA / name / "hf_tensors.json").read_text())
    assert {key: entry["sha256"] for key, entry in report["targets"].items()} == {
        key: entry["sha256_f32le"] for key, entry in wanted.items()
    }
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(wanted)
    for key, file in list(index["weight_map"].items())[::17]:
        tensor = load_file(tmp_path / "hf" / file)[key]
        assert hashlib.sha256(tensor.numpy().tobytes()).hexdigest() == wanted[key]["sha256_f32le"]
    again = open_source("huggingface", tmp_path / "hf")
    report = convert(again, "megatron", tmp_path / "mcore", SMALL)
    direct = convert(open_reference(name), "megatron", tmp_path / "direct", SMALL)
    assert report["targets"] == {
        key: {**entry, "from": report["targets"][key]["from"]}
        for key, entry in direct["targets"].items()
    }


def test_bf16_says_how_much_was_rounded(tmp_path: Path) -> None:
    exact = convert(
        open_reference("hf_a"), "megatron", tmp_path / "a", SinkOptions(dtype=torch.bfloat16)
    )
    assert not any(entry["rounded_elements"] for entry in exact["targets"].values())
    lossy = convert(
        open_reference("xai_tiny_mesh1"),
        "megatron",
        tmp_path / "b",
        SinkOptions(dtype=torch.bfloat16),
    )
    assert sum(entry["rounded_elements"] for entry in lossy["targets"].values()) > 1000
    assert {entry["dtype"] for entry in lossy["targets"].values()} == {"bfloat16"}


class Stop(Exception):
    pass


def test_an_interrupted_conversion_resumes(tmp_path: Path) -> None:
    whole = convert(open_reference("hf_a"), "megatron", tmp_path / "whole", SMALL)
    names: list[str] = []

    def interrupt(what: str, done: int, total: int) -> None:
        if what not in names:
            names.append(what)
        if len(names) == 4:
            raise Stop

    output = tmp_path / "out"
    with pytest.raises(Stop):
        convert(open_reference("hf_a"), "megatron", output, SMALL, progress=interrupt)
    assert not output.exists()
    partial = tmp_path / "out.partial"
    with pytest.raises(WeightError, match="--resume"):
        convert(open_reference("hf_a"), "megatron", output, SMALL)
    with pytest.raises(WeightError, match="begun with another"):
        convert(open_reference("hf_c"), "megatron", output, SMALL, resume=True)
    kept = partial / names[0]
    before = kept.stat().st_mtime_ns
    damaged = partial / names[1]
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    with (partial / "journal.jsonl").open("a") as file:
        file.write('{"file": "cut sho')
    resumed = convert(open_reference("hf_a"), "megatron", output, SMALL, resume=True)
    assert (output / names[0]).stat().st_mtime_ns == before
    assert resumed == whole
    assert verify_integrity(output, checksums=True) == [] and not partial.exists()


def test_the_audit_notices_a_tensor_that_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Reader.read

    def careless(self: Reader, name: str, box, dtype=None):  # type: ignore[no-untyped-def]
        block = read(self, name, box, dtype)
        if name.endswith("linear_fc2.weight"):
            self.taken.clear()
        return block

    monkeypatch.setattr(Reader, "read", careless)
    with pytest.raises(WeightError, match="audit failed.*elements used"):
        convert(open_reference("hf_a"), "megatron", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder to damage."""
    shutil.copytree(DATA / "hf_a", tmp_path / "in")
    return tmp_path / "in"


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, remove: str = "", add: str = "") -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(remove, None)
    if add:
        tensors[add] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")


def one_sentence(folder: Path, output: Path) -> str:
    with pytest.raises(MlModelsError) as error:
        convert(open_source("huggingface", folder), "megatron", output)
    assert not output.exists()
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_attention_heads": 8}, "check head counts"),
        ({"num_key_value_heads": 4}, "check head counts"),
        ({"num_attention_heads": 3}, "no multiple of 3 heads"),
        ({"num_experts": 4}, "superfluous"),
        ({"num_experts": 16}, "missing"),
        ({"vocab_size": 300}, "vocabulary"),
        ({"num_hidden_layers": 3}, "missing"),
        ({"num_hidden_layers": 1}, "superfluous"),
        ({"architectures": ["LlamaForCausalLM"]}, "describes LlamaForCausalLM"),
        ({"architectures": None, "model_type": "mixtral"}, "no Mixtral config.json"),
        ({"max_attn_value": -1.0}, "attention_logit_cap"),
    ],
)
def test_a_wrong_configuration(folder: Path, changes: dict, says: str) -> None:
    edit_config(folder, **changes)
    assert says in one_sentence(folder, folder.parent / "out")


def test_wrong_tensors(folder: Path) -> None:
    name = "model.layers.1.moe_block.experts.3.linear_v.weight"
    edit_tensors(folder, remove=name)
    assert name in one_sentence(folder, folder.parent / "out")
    shutil.copy(DATA / "hf_a" / "model.safetensors", folder)
    edit_tensors(folder, add="model.layers.1.moe_block.shared.weight")
    assert "moe_block.shared" in one_sentence(folder, folder.parent / "out")
    shutil.copy(DATA / "hf_a" / "model.safetensors", folder)
    edit_tensors(folder, add="lm_head.weight")
    assert "ties them" in one_sentence(folder, folder.parent / "out")


@pytest.mark.parametrize("length", [0, 5, 100, 20_000, -1])
def test_a_truncated_file(folder: Path, length: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert "model.safetensors" in one_sentence(folder, folder.parent / "out")


def test_headers_that_lie(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    for old, new in ((b'"F32"', b'"F99"'), (b"data_offsets", b"data_offzets"), (b"{", b"[")):
        header = data[8 : 8 + length].replace(old, new, 1)
        path.write_bytes(data[:8] + header + data[8 + length :])
        assert "model.safetensors" in one_sentence(folder, folder.parent / "out")


def test_xai_folders_that_do_not_fit(tmp_path: Path) -> None:
    shutil.copytree(DATA / "xai_tiny_mesh1", tmp_path / "in")
    ckpt = tmp_path / "in" / "ckpt-0"
    with pytest.raises(WeightError, match="tensor files, 12 layers"):
        open_source("xai", ckpt, config=DATA / "xai_tiny" / "xai_config.json")
    with pytest.raises(WeightError, match="not mixtral"):
        open_source("xai", ckpt, name="mixtral-tiny")
    (ckpt / "tensor00003_000").rename(tmp_path / "kept")
    with pytest.raises(WeightError, match="tensor00003_000"):
        open_source("xai", ckpt)
    whole = (tmp_path / "kept").read_bytes()
    (ckpt / "tensor00003_000").write_bytes(whole[:1000])
    with pytest.raises(WeightError, match="truncated"):
        open_source("xai", ckpt)
    shutil.copy(ckpt / "tensor00002_000", ckpt / "tensor00003_000")
    with pytest.raises(WeightError, match="linear_1"):
        open_source("xai", ckpt)
    with pytest.raises(WeightError, match="no format is called 'hugginface'"):
        convert(open_reference("xai_tiny_mesh1"), "hugginface", tmp_path / "out")


def test_formats_are_recognised(tmp_path: Path) -> None:
    assert guess_format(DATA / "hf_a") == "huggingface"
    assert guess_format(DATA / "xai_tiny" / "ckpt-0") == "xai"
    with pytest.raises(WeightError, match="neither"):
        guess_format(tmp_path)
    with pytest.raises(ConfigError, match="no model is called"):
        open_source("huggingface", DATA / "hf_a", name="grok1-314")


@pytest.mark.parametrize("name", registry.names())
def test_every_named_model_has_complete_maps(name: str) -> None:

    model = registry.get(name)
    maps = registry.architecture(model).weights()
    weights = build_map(maps.huggingface_rows(model), maps.shapes(model), model)
    elements = sum(torch.Size(shape).numel() for shape in weights.parameter_shapes.values())
    assert elements == sum(torch.Size(shape).numel() for shape in weights.tensor_shapes.values())
    if name == "grok1-314b":
        assert (
            elements == 64 * (24 * 6144 * 32768 + 6144 * 14336 + 12 * 6144) + 131072 * 6144 + 6144
        )


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(WeightError, match="exists already"):
        convert(open_reference("hf_a"), "megatron", tmp_path / "out")
    assert engine.REPORT not in [path.name for path in (tmp_path / "out").iterdir()]


def test_what_hpcais_code_cannot_compute_is_said(tmp_path: Path) -> None:
    """The guide's model in hpcai-tech's format: its code would give other numbers in silence."""
    source = open_reference("hf_a")
    plain = convert(open_source("huggingface", DATA / "hf_a", variant="hpcai"), "huggingface",
                    tmp_path / "same")  # fmt: skip
    assert plain["notes"] == []
    source.model = source.model.replace(
        activation="silu", attention_logit_cap=None, renormalize_topk=True
    )
    report = convert(source, "huggingface", tmp_path / "guide")
    (note,) = report["notes"]
    for part in ("activation is silu (there gelu_erf)", "renormalize_topk is True", "cap is none"):
        assert part in note
    assert open_source("huggingface", tmp_path / "guide").model == source.model


def test_the_tool_with_the_well_known_name(tmp_path: Path) -> None:
    tool = Path(__file__).parents[4] / "tools" / "convert_checkpoint.py"

    def convert_by_tool(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(tool), "--from", "xai", "--to", "megatron", *arguments]
        return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)

    ckpt, output = DATA / "xai_tiny_mesh1" / "ckpt-0", tmp_path / "out"
    done = convert_by_tool("--input", ckpt, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "38 tensors read once each" in done.stdout and str(output) in done.stdout
    assert verify_integrity(output, checksums=True) == []
    failed = convert_by_tool("--input", ckpt, "--output", output)
    assert failed.returncode == 1 and len(failed.stderr.splitlines()) == 1
    assert failed.stderr.startswith("convert_checkpoint.py:") and "exists already" in failed.stderr
    assert convert_by_tool("--input", ckpt).returncode == 2
