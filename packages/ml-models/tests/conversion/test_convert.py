"""Conversion between the three formats: bits, audit, resuming, errors."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from model_checks.opening import open_reference
from model_checks.references import DATA, HUGGING_FACE, XAI, config_of, weights_of
from safetensors.torch import load_file

from ml_models.conversion import convert as engine
from ml_models.conversion.convert import convert
from ml_models.conversion.open import open_source
from ml_models.errors import WeightError
from ml_models.files.integrity import verify_integrity
from ml_models.formats.megatron.source import MegatronSource
from ml_models.weights.boxes import Box
from ml_models.weights.sink import SinkOptions
from ml_models.weights.source import Reader

SMALL = SinkOptions(file_bytes=200_000, chunk_bytes=3_000)


@pytest.mark.parametrize("name", HUGGING_FACE + XAI)
def test_to_megatron_equals_an_independent_map(name: str, tmp_path: Path) -> None:
    convert(open_reference(name), "megatron", tmp_path / "mcore", SMALL)
    assert verify_integrity(tmp_path / "mcore", checksums=True) == []
    source = MegatronSource(tmp_path / "mcore")
    expected = weights_of(name, config_of(name, "gelu_tanh"))
    assert source.model == config_of(name, "gelu_tanh")
    assert set(source.tensors) == set(expected)
    for key, tensor in expected.items():
        stored = source.read(key, Box.whole(tuple(tensor.shape)))
        assert torch.equal(stored.float(), tensor), key


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


class StopError(Exception):
    pass


def test_an_interrupted_conversion_resumes(tmp_path: Path) -> None:
    whole = convert(open_reference("hf_a"), "megatron", tmp_path / "whole", SMALL)
    names: list[str] = []

    def interrupt(what: str, done: int, total: int) -> None:
        if what not in names:
            names.append(what)
        if len(names) == 4:
            raise StopError

    output = tmp_path / "out"
    with pytest.raises(StopError):
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


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(WeightError, match="exists already"):
        convert(open_reference("hf_a"), "megatron", tmp_path / "out")
    assert engine.REPORT not in [path.name for path in (tmp_path / "out").iterdir()]


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


def test_two_processes_on_one_output(tmp_path: Path) -> None:
    """The second is told; the lock goes with the first, whether it ends well or not."""
    output = tmp_path / "out"
    with FileLock(tmp_path / "out.partial.lock"):
        for resume in (False, True):
            with pytest.raises(WeightError, match=r"out\.partial: another process is writing"):
                convert(open_reference("hf_a"), "megatron", output, SMALL, resume=resume)
        assert not output.exists() and not (tmp_path / "out.partial").exists()
    convert(open_reference("hf_a"), "megatron", output, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
