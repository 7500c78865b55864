"""Distributed checkpoints that stock megatron-core modules write, as Megatron-LM does."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from model_checks import legacy
from model_checks.group import Group
from model_checks.legacy import VOCABULARY, arguments, as_parameters, whole
from model_checks.reading import check_weights

from ml_models.comparison import compare
from ml_models.conversion.convert import convert
from ml_models.conversion.open import guess_format, open_source
from ml_models.errors import WeightError
from ml_models.megatron_core.lines import CORE_LINE
from ml_models.weights.sink import SinkOptions

pytestmark = pytest.mark.skipif(
    CORE_LINE == "0.12", reason="0.12's writer does not know torch 2.13's format"
)
IDS = torch.arange(24).reshape(2, 12) * 7 % VOCABULARY


@pytest.mark.parametrize(
    ("sizes", "metadata"),
    [
        ((2, 1, 2, 1), None),
        ((1, 2, 2, 1), {"singleton_local_shards": False}),
        ((2, 1, 1, 1), {"non_homogeneous_layers": True}),
    ],
    ids=str,
)
def test_a_stock_checkpoint(
    sizes: legacy.Sizes, metadata: Any, tmp_path: Path, group4: Group
) -> None:
    folder = tmp_path / "iter_0000007"
    folder.mkdir()
    logits = group4.run(legacy.save_stock_distributed, folder, sizes, IDS, metadata)[0]
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("7")
    source = open_source(guess_format(tmp_path), tmp_path)
    assert source.model.architecture == "mixtral" and source.model.vocab_size == VOCABULARY
    check_weights(source, as_parameters(whole(post_norm=False)))
    convert(
        source, "huggingface", tmp_path / "hf", SinkOptions(file_bytes=100_000, chunk_bytes=3_000)
    )
    again = open_source("huggingface", tmp_path / "hf")
    check_weights(again, as_parameters(whole(post_norm=False)))
    if logits is not None:
        result = compare(again, {"input_ids": IDS, "logits": logits}, 1e-4)
        assert result["passed"], result


def test_args_that_contradict_and_none(tmp_path: Path, group4: Group) -> None:
    folder = tmp_path / "it"
    folder.mkdir()
    group4.run(legacy.save_stock_distributed, folder, (1, 1, 4, 1), IDS, None)
    with pytest.raises(WeightError, match=r"common(\.pt|_state\S*): its args say num_layers 8"):
        open_source("megatron", folder, name="mixtral-tiny")
    for changes, message in (
        ({"vocab_size": None}, "do not say vocab_size"),
        ({"qk_layernorm": True}, "qk_layernorm is True"),
        ({"num_layers": 6}, r"decoder\.layers\.\S+ is \[8, .* makes it \[6, "),
        ({"num_layers": 9}, r"decoder\.layers\.\S+ is \[8, .* makes it \[9, "),
    ):
        args = arguments((1, 1, 1, 1), post_norm=False, **changes)
        torch.save({"args": args}, folder / "common.pt")
        with pytest.raises(WeightError, match=message):
            open_source("megatron", folder)
    torch.save({}, folder / "common.pt")
    with pytest.raises(WeightError, match="name the model with --model or --config"):
        open_source("megatron", folder)


class _Runs:
    """What a hostile pickle says: call a function on loading."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def _keep_in_object(folder: Path, kept: Any) -> None:
    """Put what is not sharded where megatron-core 0.19 has it, whatever line wrote the folder."""
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

    (folder / "common.pt").unlink(missing_ok=True)
    stream, key, file = io.BytesIO(), "common_state/shard_0_1", "__0_0.distcp"
    torch.save([kept], stream)
    offset = (folder / file).stat().st_size
    with (folder / file).open("ab") as end:
        end.write(stream.getvalue())
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.state_dict_metadata[key] = BytesStorageMetadata()
    metadata.storage_data = {i: s for i, s in metadata.storage_data.items() if i.fqn != key}
    info = _StorageInfo(file, offset, len(stream.getvalue()))
    metadata.storage_data[MetadataIndex(key)] = info
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_args_in_an_object_beside_the_tensors(tmp_path: Path, group4: Group) -> None:
    folder = tmp_path / "it"
    folder.mkdir()
    group4.run(legacy.save_stock_distributed, folder, (1, 1, 4, 1), IDS, None)
    args = arguments((1, 1, 4, 1), post_norm=False)
    _keep_in_object(folder, {"args": args, "iteration": 7})
    source = open_source("megatron", folder)
    assert source.model.vocab_size == VOCABULARY
    check_weights(source, as_parameters(whole(post_norm=False)))
    assert not any("common_state" in note for note in source.notes)
    with pytest.raises(
        WeightError, match=r"__0_0\.distcp \(common_state/shard_0_1\): its args say"
    ):
        open_source("megatron", folder, name="mixtral-tiny")

    made = tmp_path / "made"
    _keep_in_object(folder, {"args": _Runs(made)})
    with pytest.raises(WeightError, match=r"common_state/shard_0_1.*mkdir"):
        open_source("megatron", folder)
    assert not made.exists()
    _keep_in_object(folder, "neither list nor args")
    with pytest.raises(WeightError, match="name the model with --model or --config"):
        open_source("megatron", folder)
