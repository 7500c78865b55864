"""To the release's form and from it: the bytes of the reference, in every direction."""

import filecmp
import json
from pathlib import Path

import pytest
import torch
from model_checks.presharded import PLAIN, PRESHARDED
from safetensors.torch import load_file

from ml_models import registry
from ml_models.cli import main
from ml_models.conversion.convert import convert
from ml_models.conversion.open import open_source
from ml_models.errors import WeightError
from ml_models.weights.sink import SinkOptions

SMALL = SinkOptions(chunk_bytes=3_000, presharded_ranks=2)
NAMES = sorted(path.name for path in PRESHARDED.glob("*.safetensors"))


def same_files(folder: Path) -> bool:
    """Whether a folder has the reference's weights, byte for byte, and no other."""
    written = sorted(path.name for path in folder.glob("*.safetensors*"))
    return (
        written == NAMES and filecmp.cmpfiles(PRESHARDED, folder, NAMES, shallow=False)[0] == NAMES
    )


@pytest.mark.parametrize("through", ["", "megatron"])
def test_the_two_forms_give_each_other_byte_for_byte(through: str, tmp_path: Path) -> None:
    sources = {"huggingface": PLAIN, "presharded": PRESHARDED}
    if through:
        for kind, folder in sources.items():
            convert(open_source(kind, folder), through, tmp_path / kind, SinkOptions())
        sources = {through: tmp_path / "huggingface"}
    for kind, folder in sources.items():
        report = convert(open_source(kind, folder), "presharded", tmp_path / f"to-{kind}", SMALL)
        assert same_files(tmp_path / f"to-{kind}")
        assert not any(entry["rounded_elements"] for entry in report["targets"].values())
    kind, folder = (through, tmp_path / "presharded") if through else ("presharded", PRESHARDED)
    convert(open_source(kind, folder), "huggingface", tmp_path / "plain", SinkOptions())
    plain = tmp_path / "plain" / "model.safetensors"
    assert plain.read_bytes() == (PLAIN / "model.safetensors").read_bytes()


@pytest.mark.parametrize("ranks", [1, 8])
def test_other_numbers_of_ranks(ranks: int, tmp_path: Path) -> None:
    options = SinkOptions(presharded_ranks=ranks) if ranks != 8 else SinkOptions()
    convert(open_source("huggingface", PLAIN), "presharded", tmp_path / "out", options)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 15 + 3 * ranks
    whole = load_file(PLAIN / "model.safetensors")
    # By the rule of the sources: w1 and w3 are joined on axis 0, w2 on axis 1.
    for kind, name, axis in ((6, "w1", 0), (7, "w2", 1), (8, "w3", 0)):
        slices = [
            load_file(tmp_path / "out" / f"pytorch_model-{kind:05d}-TP-{rank:03d}.safetensors")
            for rank in range(ranks)
        ]
        for tensor in slices[0]:
            assert f".{name}." in tensor
            joined = torch.cat([values[tensor] for values in slices], axis)
            assert torch.equal(joined, whole[tensor])
    again = open_source("presharded", tmp_path / "out")
    assert again.model == open_source("huggingface", PLAIN).model
    assert again.notes == []
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    original = json.loads((PRESHARDED / "config.json").read_text())
    assert {key: config[key] for key in original} == original


def test_a_conversion_goes_on_after_a_kill(tmp_path: Path) -> None:
    """Finished files are kept, the file that was being written is written again."""

    def stop_at_experts(name: str, _done: int, _total: int) -> None:
        if "00007-TP-001" in name:
            raise KeyboardInterrupt

    source = open_source("huggingface", PLAIN)
    with pytest.raises(KeyboardInterrupt):
        convert(source, "presharded", tmp_path / "out", SMALL, progress=stop_at_experts)
    assert not (tmp_path / "out").exists()
    kept = tmp_path / "out.partial" / "pytorch_model-00006-TP-001.safetensors"
    written = kept.stat().st_mtime_ns
    seen: set[str] = set()
    convert(
        open_source("huggingface", PLAIN), "presharded", tmp_path / "out", SMALL, resume=True,
        progress=lambda name, *_: seen.add(name),
    )  # fmt: skip
    assert "pytorch_model-00007-TP-001.safetensors" in seen
    assert same_files(tmp_path / "out")
    assert (tmp_path / "out" / kept.name).stat().st_mtime_ns == written


def test_what_has_no_place(tmp_path: Path) -> None:
    source = open_source("huggingface", PLAIN)
    for ranks in (0, 3, -8):
        options = SinkOptions(presharded_ranks=ranks)
        with pytest.raises(WeightError, match=rf"ranks is {ranks}; it must divide .*64\).*1, 2, 4"):
            convert(source, "presharded", tmp_path / "out", options)
    with pytest.raises(WeightError, match="--presharded-ranks belongs to --to presharded"):
        convert(source, "megatron", tmp_path / "out", SMALL)
    with pytest.raises(WeightError, match="--xai-scale-groups belongs to --to xai"):
        convert(source, "presharded", tmp_path / "out", SinkOptions(scale_groups=1))
    source.model = source.model.replace(untie_embeddings_and_output_weights=False)
    with pytest.raises(WeightError, match="output is its embedding"):
        convert(source, "presharded", tmp_path / "out", SMALL)
    source.model = registry.get("mixtral-tiny")
    with pytest.raises(WeightError, match="hold Grok-2, not mixtral"):
        convert(source, "presharded", tmp_path / "out", SMALL)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["convert", "--from", "presharded", "--to", "presharded", "--presharded-ranks", "2"]
    paths = ["--input", str(PRESHARDED), "--output", str(tmp_path / "out")]
    assert main([*arguments, *paths]) == 0
    assert "every number is kept exactly" in capsys.readouterr().out
    assert same_files(tmp_path / "out")
