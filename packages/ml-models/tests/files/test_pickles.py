"""Hostile files: nothing that a pickle asks for beyond the allow-lists is run."""

import io
import json
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.planner import WriteItemType

from ml_models.errors import WeightError
from ml_models.files.allow_lists import DCP_METADATA, RANK_FILE, TORCH_OBJECTS, XAI_SHARD
from ml_models.files.distributed import (
    check_distributed_checkpoint,
    load_metadata,
    metadata_pickle,
    paths_of_every_python,
)
from ml_models.files.inert import Span
from ml_models.files.pickles import interpret


class Command:
    """Pickles to a call of os.system."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def checkpoint(folder: Path, *, common: object = None, extra: object = None) -> Path:
    """A small distributed checkpoint as torch writes it, with an object kept as pickle."""
    random_state = {"numpy": np.random.RandomState(1).get_state(), "torch": torch.get_rng_state()}
    state = {"weight": torch.arange(6.0).reshape(2, 3), "rng": extra or random_state}
    dcp.save(state, checkpoint_id=folder)
    torch.save(common or {"iteration": 3, "rng": random_state, "empty": b""}, folder / "common.pt")
    (folder / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist"}))
    return folder


def test_an_honest_checkpoint_passes(tmp_path: Path) -> None:
    check_distributed_checkpoint(checkpoint(tmp_path / "good"))


@pytest.mark.parametrize("module", [b"pathlib", b"pathlib._local"])
def test_checkpoints_of_every_python_pass(module: bytes, tmp_path: Path) -> None:
    """Python 3.13 calls the module of a path pathlib._local, every other Python pathlib."""
    folder = checkpoint(tmp_path / "good")
    metadata = folder / ".metadata"
    # Protocol 2 writes a name as text: c, the module, a line feed, the name.
    stream = pickle.dumps(pickle.loads(metadata.read_bytes()), protocol=2)
    stream, count = re.subn(rb"cpathlib(\._local)?\n", b"c%b\n" % module, stream)
    assert count
    metadata.write_bytes(stream)
    check_distributed_checkpoint(folder)
    assert load_metadata(folder).storage_meta.checkpoint_id == folder
    known = sys.modules.copy()
    with paths_of_every_python():
        by_torch = dcp.FileSystemReader(folder).read_metadata()
    assert by_torch.storage_meta.checkpoint_id == folder
    assert sys.modules == known


def test_what_is_written_names_no_path(tmp_path: Path) -> None:
    """Then it does not matter what a path's module is called by the Python that reads it."""
    folder = checkpoint(tmp_path / "good")
    by_torch = (folder / ".metadata").read_bytes()
    stream = metadata_pickle(pickle.loads(by_torch))
    assert b"pathlib" in by_torch and b"pathlib" not in stream and b"Path" not in stream
    (folder / ".metadata").write_bytes(stream)
    loaded = {"weight": torch.zeros(2, 3)}
    dcp.load(loaded, checkpoint_id=folder)
    assert torch.equal(loaded["weight"], torch.arange(6.0).reshape(2, 3))


def hostile_common(folder: Path, mark: Path) -> None:
    checkpoint(folder, common={"a": Command(mark)})


def hostile_object(folder: Path, mark: Path) -> None:
    checkpoint(folder, extra={"a": Command(mark)})


def hostile_metadata(folder: Path, mark: Path) -> None:
    checkpoint(folder)
    (folder / ".metadata").write_bytes(pickle.dumps(Command(mark)))


def legacy_common(folder: Path, mark: Path) -> None:
    checkpoint(folder)
    torch.save({"a": Command(mark)}, folder / "common.pt", _use_new_zipfile_serialization=False)


def two_pickles(folder: Path, mark: Path) -> None:
    checkpoint(folder)
    with zipfile.ZipFile(folder / "common.pt", "a") as archive:
        archive.writestr("common/DATA.pkl", pickle.dumps(Command(mark), protocol=2))


def script_archive(folder: Path, mark: Path) -> None:
    checkpoint(folder)
    with zipfile.ZipFile(folder / "common.pt", "a") as archive:
        archive.writestr("common/constants.pkl", pickle.dumps(()))


@pytest.mark.parametrize(
    "make",
    [hostile_common, hostile_object, hostile_metadata, legacy_common, two_pickles, script_archive],
)
def test_hostile_checkpoints_are_refused(
    tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    make(tmp_path / "bad", tmp_path / "mark")
    with pytest.raises(WeightError):
        check_distributed_checkpoint(tmp_path / "bad")
    assert not (tmp_path / "mark").exists()


def test_metadata_cannot_point_outside_the_folder(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "bad")
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    for info in metadata.storage_data.values():
        info.relative_path = "../elsewhere"
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(WeightError, match="outside the folder"):
        check_distributed_checkpoint(folder)


def test_other_backends_are_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "bad")
    (folder / "metadata.json").write_text(json.dumps({"sharded_backend": "zarr"}))
    with pytest.raises(WeightError, match="only torch_dist"):
        check_distributed_checkpoint(folder)


ENUM = b"ctorch.distributed.checkpoint.planner\nWriteItemType\n"
STREAMS = {
    "an import": b"\x80\x04cos\nsystem\n.",
    "a call of a result": b"\x80\x02cnumpy\ndtype\n(U\x02f4tR(tR.",
    "a change of a class": b"\x80\x02cnumpy\ndtype\n}b.",
    "getattr of a class": b"\x80\x02c__builtin__\ngetattr\n(cnumpy\nndarray\nU\x07__doc__tR.",
    "getattr of an enum's class": b"\x80\x02c__builtin__\ngetattr\n(" + ENUM + b"U\x09__class__tR.",
    "a call of what getattr gave": b"\x80\x02c__builtin__\ngetattr\n(" + ENUM + b"U\x03mrotR)R.",
    "a change of an enum's member": b"\x80\x02" + ENUM + b"K\x01\x85R}b.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__class__\x93.",
    "an old instruction": b"(ios\nsystem\n.",
    "an extension code": b"\x80\x02\x82\x01.",
    "a huge length": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "an allocation": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
    b"(J\x00\x00\x00\x7ftU\x01bt R.",
    "nothing": b"",
    "noise": bytes(range(256)),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("allowed", [XAI_SHARD, DCP_METADATA, TORCH_OBJECTS, RANK_FILE])
def test_hostile_streams(name: str, allowed: dict) -> None:
    with pytest.raises(WeightError):
        interpret(io.BytesIO(STREAMS[name]), name, allowed)


class MemberByName:
    """Pickles to an enum's member as Python 3.11.2 writes one."""

    def __reduce__(self) -> tuple[object, tuple[object, str]]:
        return getattr, (WriteItemType, "TENSOR")


@pytest.mark.parametrize("protocol", [2, 4])
def test_an_enum_member_by_name_is_read(protocol: int) -> None:
    stream = io.BytesIO(pickle.dumps(MemberByName(), protocol))
    assert str(interpret(stream, "it", DCP_METADATA).function).endswith(".getattr")


def test_a_trainers_class_stays_a_name() -> None:
    """What args of a run may hold; nothing of it is imported, and nothing else may be called."""
    stream = b"\x80\x02cmegatron.core.enums\nModelType\nK\x01\x85R."
    value_read = interpret(io.BytesIO(stream), "it", RANK_FILE)
    assert str(value_read.function) == "megatron.core.enums.ModelType" and value_read.arguments == (
        1,
    )
    with pytest.raises(WeightError, match="not allowed"):
        interpret(io.BytesIO(b"\x80\x02cmegatronx.core\nsystem\n)R."), "it", RANK_FILE)
    with pytest.raises(WeightError, match="no allowed name"):
        interpret(io.BytesIO(stream[:-1] + b")R."), "it", RANK_FILE)


def test_truncation_at_every_byte_is_one_error(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "good")
    stream = (folder / ".metadata").read_bytes()
    for length in range(0, len(stream), 7):
        with pytest.raises(WeightError):
            interpret(io.BytesIO(stream[:length]), ".metadata", DCP_METADATA)
    common = (folder / "common.pt").read_bytes()
    for length in range(0, len(common), 97):
        (folder / "common.pt").write_bytes(common[:length])
        with pytest.raises(WeightError):
            check_distributed_checkpoint(folder)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner)
    | st.frozensets(st.integers()) | st.sets(st.text()),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(PLAIN, st.integers(2, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_those_that_python_reads(value: object, protocol: int) -> None:
    # Twice the same object: the stream refers to the first. Protocols below 4 name the class of a
    # set, so that they are refused here, as sets stand in no file of theirs.
    stream = pickle.dumps([value, value], protocol)
    try:
        value_read = interpret(io.BytesIO(stream), "stream", DCP_METADATA)
    except WeightError as error:
        assert protocol < 4 and "asks for" in str(error)
        return
    expected = pickle.loads(stream)
    assert value_read == expected and repr(value_read) == repr(expected)


@pytest.mark.parametrize("size", [65_536, 65_537, 200_000])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_long_byte_strings_stay_in_the_file(size: int, protocol: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    text = "t" * size
    stream = pickle.dumps((data, text, 7), protocol)
    span, long_text, number = interpret(io.BytesIO(stream), "stream", XAI_SHARD)
    assert long_text == text and number == 7
    if size <= 65_536:
        assert span == data
    else:
        assert isinstance(span, Span)
        assert stream[span.offset : span.offset + span.length] == data
    for end in range(0, len(stream), 4999):
        with pytest.raises(WeightError, match="truncated"):
            interpret(io.BytesIO(stream[:end]), "stream", XAI_SHARD)
