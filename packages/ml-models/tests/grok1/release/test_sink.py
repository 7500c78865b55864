"""To xAI's format: its bytes again where they can be had, the smallest error where they cannot."""

import argparse
import filecmp
import io
import json
import pickle
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from model_checks.references import DATA, XAI, Quantized, XaiUnpickler
from safetensors.torch import load_file, save_file
from torch import Tensor

from ml_models import registry
from ml_models.commands import compare
from ml_models.commands import convert as command
from ml_models.conversion.convert import convert
from ml_models.conversion.open import open_source, read_model_file
from ml_models.errors import MlModelsError, WeightError
from ml_models.grok1.release.config import widening_factor
from ml_models.weights.sink import SinkOptions

SMALL = SinkOptions(file_bytes=200_000, chunk_bytes=3_000)
GROUPS = {"xai_tiny": 8, "xai_tiny_mesh1": 1}
ROW_PARALLEL = ("multi_head_attention/linear/w", "moe/linear_1/w")


@pytest.mark.parametrize("name", XAI)
@pytest.mark.parametrize("through", ["huggingface", "megatron"])
def test_the_references_come_back_byte_for_byte(name: str, through: str, tmp_path: Path) -> None:
    released = DATA / name / "ckpt-0"
    convert(
        open_source("xai", released), through, tmp_path / "between", SinkOptions(chunk_bytes=30_000)
    )
    source = open_source(through, tmp_path / "between")
    report = convert(source, "xai", tmp_path / "out", replace(SMALL, scale_groups=GROUPS[name]))
    files = sorted(path.name for path in released.iterdir())
    assert sorted(path.name for path in (tmp_path / "out").glob("tensor*")) == files
    assert filecmp.cmpfiles(released, tmp_path / "out", files, shallow=False)[0] == files
    assert not any(entry["rounded_elements"] for entry in report["targets"].values())
    again = open_source("xai", tmp_path / "out")
    assert again.model == open_source("xai", released).model
    written = json.loads((tmp_path / "out" / "xai_config.json").read_text())
    original = json.loads((DATA / name / "xai_config.json").read_text())
    assert {key: written[key] for key in original} == original


@pytest.mark.parametrize("groups", [1, 4])
def test_other_groups_hold_the_same_numbers(groups: int, tmp_path: Path) -> None:
    """From 8 groups to 4 or 1 the scales must be new ones; from 1 to 4 nothing is lost."""
    name = "xai_tiny" if groups == 1 else "xai_tiny_mesh1"
    source = open_source("xai", DATA / name / "ckpt-0")
    report = convert(source, "xai", tmp_path / "out", SinkOptions(scale_groups=groups))
    lossy = {key for key, entry in report["targets"].items() if entry["rounded_elements"]}
    regrouped = {key for key in report["targets"] if key.endswith(ROW_PARALLEL)}
    assert lossy == (regrouped if groups == 1 else set())
    for key in regrouped:
        assert report["targets"][key]["scales"]["shape"][-2] == groups


def test_what_was_written_passes_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(open_source("xai", DATA / "xai_tiny" / "ckpt-0"), "megatron", tmp_path / "between")
    convert(open_source("megatron", tmp_path / "between"), "xai", tmp_path / "out")
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    reference = DATA / "xai_tiny" / "reference.safetensors"
    arguments = ["--weights", str(tmp_path / "out"), "--reference", str(reference)]
    arguments += ["--prefix", "xai_fp32.", "--tolerance", "2e-5", "--json"]
    assert compare.run(parser.parse_args(arguments)) == 0
    assert json.loads(capsys.readouterr().out)["passed"]


def random_folder(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """hf_a with random weights that no int8 holds."""
    torch.manual_seed(5)
    folder.mkdir()
    before = load_file(DATA / "hf_a" / "model.safetensors")
    tensors = {key: torch.randn(value.shape, dtype=dtype) * 0.1 for key, value in before.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_bytes((DATA / "hf_a" / "config.json").read_bytes())
    return tensors


def dequantized(leaf: Quantized) -> tuple[np.ndarray, np.ndarray]:
    """(numbers, half a scale at each), in fp64, by numpy alone."""
    scales = (np.asarray(leaf.scales).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    repeated = np.repeat(scales, leaf.weight.shape[-2] // scales.shape[-2], axis=-2)
    wide = repeated.astype(np.float64)
    return leaf.weight.astype(np.float64) * wide, np.abs(wide) / 2


def read(path: Path) -> object:
    return XaiUnpickler(io.BytesIO(path.read_bytes())).load()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_random_weights_are_off_by_half_a_scale_at_most(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = random_folder(tmp_path / "in", dtype)
    report = convert(open_source("huggingface", tmp_path / "in"), "xai", tmp_path / "out", SMALL)
    layer = "transformer/decoder_layer_1/"
    attention = "model.layers.1.attn."
    parts = {"key": "k_proj", "linear": "o_proj", "query": "q_proj", "value": "v_proj"}
    wanted = {
        f"{layer}multi_head_attention/{leaf}/w": tensors[f"{attention}{linear}.weight"].T
        for leaf, linear in parts.items()
    }
    for part in ("linear", "linear_1", "linear_v"):
        experts = [
            tensors[f"model.layers.1.moe_block.experts.{e}.{part}.weight"].T for e in range(8)
        ]
        wanted[f"{layer}moe/{part}/w"] = torch.stack(experts)
    for name, weights in wanted.items():
        entry = report["targets"][name]
        leaf = read(tmp_path / "out" / entry["file"])
        assert isinstance(leaf, Quantized) and leaf.weight.dtype == np.int8
        assert list(leaf.weight.shape) == entry["shape"] == list(weights.shape)
        groups = 8 if name.endswith(ROW_PARALLEL) else 1
        assert list(leaf.scales.shape) == [*weights.shape[:-2], groups, weights.shape[-1]]
        restored, half = dequantized(leaf)
        error = np.abs(restored - weights.double().numpy())
        assert (error <= half).all() and error.max() > half.max() / 4
        assert np.abs(leaf.weight.astype(int)).max() == 127
        assert entry["rounded_elements"] == np.count_nonzero(error) > 0.8 * error.size
        assert entry["largest_error"] == pytest.approx(error.max(), rel=1e-12)
    gate = report["targets"][f"{layer}router/w"]
    stored = torch.from_numpy(read(tmp_path / "out" / gate["file"]))
    assert torch.equal(stored, tensors["model.layers.1.moe_block.gate.weight"].T.float())
    assert gate["rounded_elements"] == (stored.numel() if dtype == torch.float64 else 0)


def test_python_reads_the_files_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pickle.loads as xAI's loader calls it: the class in __main__, ml_dtypes installed."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    random_folder(tmp_path / "in")
    report = convert(open_source("huggingface", tmp_path / "in"), "xai", tmp_path / "out")
    stand_in = type("QuantizedWeight8bit", (), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "QuantizedWeight8bit", stand_in, raising=False)
    for entry in report["targets"].values():
        data = (tmp_path / "out" / entry["file"]).read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # numpy 2 has moved numpy.core
            leaf = pickle.loads(data)
        if entry["dtype"] == "int8":
            assert leaf.weight.shape == tuple(entry["shape"]) and leaf.weight.flags.c_contiguous
            assert leaf.scales.dtype == ml_dtypes.bfloat16
        else:
            assert leaf.shape == tuple(entry["shape"]) and leaf.dtype == np.float32


def run_command(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def test_the_command_says_what_was_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random_folder(tmp_path / "in")
    to_xai = ("--from", "huggingface", "--to", "xai", "--input", tmp_path / "in")
    assert run_command(*to_xai, "--output", tmp_path / "out", "--xai-scale-groups", 4) == 0
    output_text = capsys.readouterr().out
    assert "of 312,896 numbers were rounded, by at most 0.00" in output_text
    assert "its mesh must be (1, 4)" in output_text
    config = json.loads((tmp_path / "out" / "xai_config.json").read_text())
    assert config["local_mesh_config"] == [1, 4]
    there = ("--from", "xai", "--to", "xai", "--input", tmp_path / "out")
    assert run_command(*there, "--output", tmp_path / "again", "--xai-scale-groups", 4) == 0
    assert "every number is kept exactly" in capsys.readouterr().out
    for path in (tmp_path / "out").glob("tensor*"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({}, {"scale_groups": 3}, "must divide heads times head size.*1, 2, 4, 8 do"),
        ({}, {"scale_groups": 0}, "--xai-scale-groups is 0"),
        ({}, {"scale_groups": -2}, "--xai-scale-groups is -2"),
        ({}, {"dtype": torch.bfloat16}, "--dtype has no use with --to xai"),
        ({"untie_embeddings_and_output_weights": True}, {}, "output layer of its own"),
        ({"post_norms": False}, {}, "four norms"),
        ({"ffn_hidden_size": 84}, {"scale_groups": 4}, "multiples of 8"),
    ],
)
def test_what_the_format_cannot_hold(
    changes: dict, options: dict, says: str, tmp_path: Path
) -> None:
    source = open_source("huggingface", DATA / "hf_a")
    source.model = source.model.replace(**changes)
    with pytest.raises(MlModelsError, match=says) as error:
        convert(source, "xai", tmp_path / "out", SinkOptions(**options))
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert not list(tmp_path.iterdir())


def test_refusals_that_need_another_source(tmp_path: Path) -> None:
    hf_a = open_source("huggingface", DATA / "hf_a")
    with pytest.raises(WeightError, match="belongs to --to xai"):
        convert(hf_a, "megatron", tmp_path / "out", SinkOptions(scale_groups=8))
    hf_a.model = registry.get("mixtral-tiny")
    with pytest.raises(WeightError, match="holds Grok-1, not mixtral"):
        convert(hf_a, "xai", tmp_path / "out")
    tensors = random_folder(tmp_path / "in")
    for bad in (torch.nan, torch.inf):
        tensors["model.layers.0.attn.o_proj.weight"][3, 5] = bad
        save_file(tensors, tmp_path / "in" / "model.safetensors")
        with pytest.raises(WeightError, match=r"linear/w: it has numbers that are infinite"):
            convert(open_source("huggingface", tmp_path / "in"), "xai", tmp_path / f"{bad}")
        assert not (tmp_path / f"{bad}").exists()


def test_what_xais_code_cannot_compute_is_said(tmp_path: Path) -> None:
    source = open_source("huggingface", DATA / "hf_b")  # four experts
    source.model = source.model.replace(
        activation="silu", attention_logit_cap=None, renormalize_topk=True, norm_epsilon=1e-6
    )
    report = convert(source, "xai", tmp_path / "out", SinkOptions(scale_groups=2))
    mesh, numbers, experts = report["notes"][-3:]
    assert "(1, 2)" in mesh and "runs with 8 experts only" in experts
    for part in ("activation is silu (there gelu_tanh)", "cap is none", "renormalize_topk is True"):
        assert part in numbers
    assert open_source("xai", tmp_path / "out").model == source.model
    hpcai = open_source("xai", tmp_path / "out", variant="hpcai").model
    assert hpcai == source.model.replace(activation="gelu_erf")
    path = tmp_path / "out" / "xai_config.json"
    path.write_text(path.read_text().replace('"sequence_len": ', '"sequence_len": 1'))
    with pytest.raises(WeightError, match="contradict"):
        read_model_file(path)


def test_the_widening_factor_makes_the_width_again() -> None:
    from ml_models.grok1.config import ffn_hidden_size

    assert widening_factor(32768, 6144) == 8.0
    assert widening_factor(88, 64) == 2.0
    for hidden in (64, 96, 1000, 6144):
        for ffn in range(8, 4000, 8):
            assert ffn_hidden_size(widening_factor(ffn, hidden), hidden) == ffn


def test_a_resumed_conversion_needs_the_same_groups(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "tensor00005_000":
            raise StopError

    source = open_source("huggingface", DATA / "hf_a")
    with pytest.raises(StopError):
        convert(source, "xai", tmp_path / "out", SMALL, progress=interrupt)
    with pytest.raises(WeightError, match="begun with another"):
        convert(source, "xai", tmp_path / "out", replace(SMALL, scale_groups=4), resume=True)
    kept = tmp_path / "out.partial" / "tensor00004_000"
    before = kept.stat().st_mtime_ns
    seen: list[tuple[int, int]] = []
    convert(
        source,
        "xai",
        tmp_path / "out",
        SMALL,
        resume=True,
        progress=lambda what, done, total: seen.append((done, total)),
    )
    assert (tmp_path / "out" / kept.name).stat().st_mtime_ns == before
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
