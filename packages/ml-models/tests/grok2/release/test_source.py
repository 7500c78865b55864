"""Folders of presharded files as people have them: missing, mixed, exchanged, renamed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_checks.presharded import PLAIN, copy_to, exchange, file
from safetensors.torch import load_file, save_file

from ml_models.conversion.convert import convert
from ml_models.conversion.open import convert_command, formats_of, open_source
from ml_models.errors import MlModelsError
from ml_models.weights.sink import SinkOptions

Change = Callable[[Path], object]


def remove(*files: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in files]


def copy(origin: str, name: str) -> Change:
    return lambda folder: shutil.copy(folder / origin, folder / name)


def exchanged(first: str, second: str) -> Change:
    return lambda folder: exchange(folder, first, second)


def set_config(**values: object) -> Change:
    def write(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return write


def drop_config(*names: str) -> Change:
    def write(folder: Path) -> None:
        path = folder / "config.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({key: values[key] for key in values if key not in names}))

    return write


def mix(ranks: int, *names: str) -> Change:
    """Take files of the same model for another number of ranks."""

    def change(folder: Path) -> None:
        options = SinkOptions(presharded_ranks=ranks)
        other = folder.with_name("other")
        convert(open_source("huggingface", PLAIN), "presharded", other, options)
        for name in names:
            shutil.copy(other / name, folder / name)

    return change


def rewrite(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda folder: save_file(
        {key: change(values).clone() for key, values in load_file(folder / name).items()},
        folder / name,
    )


W1 = [file(6, "000"), file(6, "001")]
FIRST = [file(kind, "000") for kind in (6, 7, 8)]
SECOND = [file(kind, "001") for kind in (6, 7, 8)]
GROK2_FIELDS = ("residual_moe", "attn_temperature_len", "router_logit_softcapping")
REFUSED: list[tuple[Change, str]] = [
    (remove(file(6, "001")), r"00006-TP-001.safetensors is missing; .* for 2 ranks"),
    (remove(file(7, "000")), r"00007-TP-000.safetensors is missing"),
    (remove(*SECOND), r"00006-TP-000.*32 of 64 rows, a slice for 2 ranks, and the files are of 1"),
    (remove(*W1), r"00006-TP-000.*, .*00006-TP-001.* are missing, with 16 tensors"),
    (remove(file(10, "common")), r"00010-TP-common.safetensors is missing, with 2 tensors"),
    (remove(*FIRST, *SECOND), "no file of a rank"),
    (copy(file(6, "001"), file(6, "002")), r"00007-TP-002.* missing; .* for 3 ranks"),
    (mix(4, file(6, "001")), r"00006-TP-001.*16 of 64 rows, a slice for 4 ranks"),
    (mix(4, file(7, "000")), r"00007-TP-000.*16 of 64 columns, a slice for 4 ranks"),
    (exchanged(file(6, "000"), file(7, "000")), r"00006-TP-000.* and .*00006-TP-001.* exchanged"),
    (exchanged(file(6, "001"), file(8, "000")), "hold different tensors"),
    (copy(file(6, "000"), file(6, "001")), r"00006-TP-001.*holds the numbers of .*00006-TP-000"),
    (copy(file(3, "common"), file(18, "common")), "00018-TP-common.*gate_proj.*holds too"),
    (copy(file(3, "common"), file(6, "common").replace("common", "1")), "not of the form"),
    (exchanged(file(6, "000"), file(3, "common")), "hold different tensors"),
    (lambda folder: (folder / file(3, "common")).write_bytes(b"abc"), "not a safetensors file"),
    (rewrite(file(9, "common"), lambda values: values[:8]), "k_proj.weight is"),
    (rewrite(file(2, "common"), lambda values: values.to(torch.int8)), "is I8"),
    (remove("config.json"), "no config.json, .*--model grok2-270b"),
    (drop_config(*GROK2_FIELDS), "attn_temperature_len, residual_moe missing; it is no Grok-2"),
    (set_config(rope_type="yarn"), "rope_type is 'yarn'; it must be original"),
    (set_config(moe_intermediate_size=96), "32 of 96 rows, a slice for 3 ranks|of another model"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_is_refused(change: Change, message: str, tmp_path: Path) -> None:
    folder = copy_to(tmp_path / "release")
    change(folder)
    with pytest.raises(MlModelsError, match=message) as caught:
        open_source("presharded", folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_the_folder_is_recognised(tmp_path: Path) -> None:
    folder = copy_to(tmp_path / "release")
    assert formats_of(folder) == ["presharded"]
    command = convert_command(folder)
    assert command is not None
    assert "--from presharded --to megatron" in command
    assert "--model" not in command
    with pytest.raises(MlModelsError, match="presharded files of Grok-2, .*--from presharded"):
        open_source("huggingface", folder)
    shutil.copy(PLAIN / "model.safetensors", folder)
    assert formats_of(folder) == ["presharded", "huggingface"]
    with pytest.raises(MlModelsError, match="hold Grok-2, and the configuration is of mixtral"):
        open_source("presharded", folder, name="mixtral-tiny")
