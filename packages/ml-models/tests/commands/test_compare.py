"""ml-models compare: right models pass, wrong ones do not, and the numbers say where."""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_checks import grok2
from model_checks.references import DATA
from model_checks.rounding import reference_errors
from safetensors.torch import load_file, save_file

from ml_models.commands import compare
from ml_models.conversion.convert import convert
from ml_models.conversion.open import open_source
from ml_models.errors import MlModelsError, WeightError


def run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, dict]:
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    code = compare.run(parser.parse_args([*map(str, arguments), "--json"]))
    return code, json.loads(capsys.readouterr().out)


def reference(name: str) -> Path:
    return DATA / name / "reference.safetensors"


@pytest.mark.parametrize(("name", "tolerance"), [("hf_a", 1e-4), ("hf_b", 2e-5), ("hf_c", 1e-4)])
def test_hpcai_in_every_number(name: str, tolerance: float, capsys: pytest.CaptureFixture) -> None:
    arguments = ("--weights", DATA / name, "--reference", reference(name), "--tolerance", tolerance)
    code, found = run(capsys, *arguments, "--variant", "hpcai")
    assert code == 0 and found["passed"] and found["top1_agreement"] == 1.0
    assert set(found["groups"]) == {
        *("logits", "hidden_states", "final_norm", "router_logits", "loss", "grad", "grad_norm")
    }
    for entry in found["groups"].values():
        # Another torch rounds otherwise: no number is further off than the reference is itself.
        rounding = reference_errors(name).get(entry["worst"], 0.0)
        assert entry["within"] or entry[entry["limited"]] <= rounding, entry
    assert found["not_compared"] == []
    code, found = run(capsys, *arguments)
    assert code == 1 and not found["passed"], "xAI's GELU is not hpcai's"


@pytest.mark.parametrize("name", grok2.NAMES)
def test_grok_2_at_its_own_tolerance(name: str, capsys: pytest.CaptureFixture) -> None:
    weights = grok2.DATA / grok2.FOLDERS[name]
    arguments = ("--weights", weights, "--reference", grok2.DATA / name / "reference.safetensors")
    code, found = run(capsys, *arguments)
    assert code == 0 and found["tolerance"] == 1e-3 and found["not_compared"] == []
    assert all(entry["within"] for entry in found["groups"].values()), found["groups"]
    exact = run(capsys, *arguments, "--variant", "gelu-exact")[1]
    assert exact["groups"]["logits"]["absolute"] > 5 * found["groups"]["logits"]["absolute"]


@pytest.mark.parametrize("name", ["xai_tiny", "xai_tiny_mesh1"])
def test_xai_from_its_own_files(name: str, capsys: pytest.CaptureFixture) -> None:
    arguments = (
        *("--weights", DATA / name / "ckpt-0", "--config", DATA / name / "xai_config.json"),
        *("--reference", reference(name), "--tolerance", 2e-5),
    )
    code, found = run(capsys, *arguments, "--prefix", "xai_fp32.")
    assert code == 0 and found["top1_agreement"] == 1.0
    assert set(found["groups"]) == {"logits", "hidden_states", "router_logits"}
    assert run(capsys, *arguments, "--prefix", "hf_fp32_gelu_erf.", "--variant", "hpcai")[0] == 0
    assert run(capsys, *arguments, "--prefix", "hf_fp32_gelu_erf.")[0] == 1


def test_a_converted_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    convert(open_source("xai", DATA / "xai_tiny_mesh1" / "ckpt-0"), "megatron", tmp_path / "out")
    arguments = ("--reference", reference("xai_tiny_mesh1"), "--prefix", "xai_fp32.")
    code, found = run(capsys, "--weights", tmp_path / "out", *arguments, "--tolerance", 2e-5)
    assert code == 0 and found["passed"]


def test_a_changed_weight_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(DATA / "hf_a", tmp_path / "in")
    path = tmp_path / "in" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.moe_block.experts.2.linear_v.weight"][3, 5] += 1.0
    save_file(tensors, path)
    arguments = ("--weights", tmp_path / "in", "--reference", reference("hf_a"))
    code, found = run(capsys, *arguments, "--variant", "hpcai")
    assert code == 1
    assert found["groups"]["hidden_states"]["worst"] == "hidden_states.2"
    tensors["model.norm.scale"][0] = torch.nan
    save_file(tensors, path)
    assert run(capsys, *arguments, "--tolerance", 1e9)[0] == 1


def test_what_cannot_be_compared_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    hf_a = ("--weights", DATA / "hf_a")
    with pytest.raises(WeightError, match="prefixes with logits: 'hf_fp32_gelu_erf.'"):
        run(capsys, *hf_a, "--reference", reference("xai_tiny"))
    with pytest.raises(WeightError, match="another model"):
        run(capsys, *hf_a, "--reference", reference("hf_c"))
    with pytest.raises(WeightError, match="no readable safetensors"):
        run(capsys, *hf_a, "--reference", tmp_path / "nothing")
    with pytest.raises(MlModelsError, match="no such folder"):
        run(capsys, "--weights", tmp_path / "nothing", "--reference", reference("hf_a"))


def test_nothing_but_the_table_is_printed() -> None:
    """Megatron-core's import warns of kernels that a user of this command can do nothing about."""
    command = [sys.executable, "-m", "ml_models.cli", "compare", "--variant", "hpcai"]
    command += ["--weights", str(DATA / "hf_a"), "--reference", str(reference("hf_a"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "logits within 0.0001"
