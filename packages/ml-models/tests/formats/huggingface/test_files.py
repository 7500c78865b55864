"""Which files of a folder are read: shards, indexes, torch files, links, copies."""

import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_checks.hugging_face_folder import (
    INDEX,
    copy_of_reference,
    read_whole,
    shards,
    weights,
    write,
)
from safetensors.torch import save_file

from ml_models.conversion.open import open_source
from ml_models.errors import WeightError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_of_reference(tmp_path / "in")


def refusal(folder: Path) -> str:
    """The one sentence (or two clauses) with which a folder is refused."""
    with pytest.raises(WeightError) as error:
        open_source("huggingface", folder)
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and str(folder) in text
    return text


@pytest.mark.parametrize("index", [True, False])
def test_shards_with_and_without_an_index(folder: Path, index: bool) -> None:
    shards(folder, weights(), index=index)
    read_whole(folder)


@pytest.mark.parametrize("index", [True, False])
def test_a_missing_shard_is_named(folder: Path, index: bool) -> None:
    paths = shards(folder, weights(), index=index)
    paths[1].unlink()
    text = refusal(folder)
    assert "1 of " in text and "model-00002-of-00003.safetensors" in text and "fetch them" in text


@pytest.mark.parametrize("text", ["", "{", "{}", '{"weight_map": {}}', '{"weight_map": []}', "[]"])
def test_an_index_of_nothing(folder: Path, text: str) -> None:
    shards(folder, weights(), index=False)
    (folder / INDEX).write_text(text)
    says = refusal(folder)
    assert INDEX in says and (
        "remove it: the shards are read without it" in says or "empty" in says
    )


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "a\\b", 3, "", "x.txt"])
def test_an_index_cannot_point_outside(folder: Path, file: object) -> None:
    shards(folder, weights(), index=True)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.scale"] = file
    (folder / INDEX).write_text(json.dumps(index))
    assert "it names" in refusal(folder)


def test_an_index_may_name_files_in_a_subfolder(folder: Path) -> None:
    paths = shards(folder, weights(), index=True)
    (folder / "shards").mkdir()
    for path in paths:
        path.rename(folder / "shards" / path.name)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = {key: f"shards/{file}" for key, file in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index))
    read_whole(folder)


def test_two_sets_of_weights_are_refused(folder: Path) -> None:
    """An older single file beside newer shards, or the other way round: nobody can tell."""
    shards(folder, weights(), index=True)
    save_file(weights(), folder / "model.safetensors")
    text = refusal(folder)
    assert "two sets of weights" in text and "model.safetensors" in text and "stale" in text
    (folder / INDEX).unlink()
    assert "two sets of weights" in refusal(folder)


def test_an_index_that_a_later_save_left_behind(folder: Path) -> None:
    for path in shards(folder, weights(), index=True):
        path.unlink()
    save_file(weights(), folder / "model.safetensors")
    assert any("none of its files is there" in note for note in read_whole(folder).notes)


def test_an_index_of_files_that_were_never_fetched(folder: Path) -> None:
    """The small index comes with the torch files; its safetensors do not."""
    for path in shards(folder, weights(), index=True):
        path.unlink()
    assert "3 of its 3 files are not there" in refusal(folder)
    torch.save(weights(), folder / "pytorch_model.bin")
    read_whole(folder)


def test_copies_in_two_shards_must_be_equal(folder: Path) -> None:
    tensors = weights()
    for index in (True, False):
        paths = shards(folder, tensors, index=index)
        name = sorted(tensors)[0]
        part = {key: tensors[key] for key in sorted(tensors)[1::3]}
        save_file({**part, name: tensors[name]}, paths[1])
        assert any("equal numbers" in note for note in read_whole(folder).notes)
        save_file({**part, name: tensors[name] + 1}, paths[1])
        assert f"{name} differs from the one in {paths[0].name}" in refusal(folder)


def test_an_index_of_other_shards(folder: Path) -> None:
    tensors = weights()
    paths = shards(folder, tensors, index=True)
    index = json.loads((folder / INDEX).read_text())
    name = sorted(tensors)[0]
    dropped = dict(index["weight_map"])
    del dropped[name]
    (folder / INDEX).write_text(json.dumps({"weight_map": dropped}))
    assert f"it holds {name}, which the index does not say" in refusal(folder)
    added = {**index["weight_map"], "model.extra": paths[0].name}
    (folder / INDEX).write_text(json.dumps({"weight_map": added}))
    assert "the index names model.extra" in refusal(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.fp16.safetensors"])
def test_one_file_of_another_name(folder: Path, name: str) -> None:
    write(folder, weights(), name)
    assert f"the weights are {name}" in read_whole(folder).notes


def test_files_of_other_names_are_not_guessed(folder: Path) -> None:
    write(folder, weights(), "a.safetensors")
    write(folder, weights(), "b.safetensors")
    assert "a.safetensors and b.safetensors could each be the weights" in refusal(folder)


def test_consolidated_with_the_usual_names(folder: Path) -> None:
    write(folder, weights(), "consolidated.safetensors")
    read_whole(folder)
    shards(folder, weights(), index=True)
    assert any("consolidated.safetensors: not read" in note for note in read_whole(folder).notes)


@pytest.mark.parametrize("form", ["plain", "ordered", "parameters", "nested", "sharded", "indexed"])
def test_torch_files(folder: Path, form: str) -> None:
    """What torch.save writes of a state_dict, in the ways that trainers do."""
    tensors = weights()
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    if form in ("sharded", "indexed"):
        placed = {}
        for number in (1, 2):
            file = f"pytorch_model-0000{number}-of-00002.bin"
            torch.save({name: tensors[name] for name in names[number - 1 :: 2]}, folder / file)
            placed.update(dict.fromkeys(names[number - 1 :: 2], file))
        if form == "indexed":
            index = json.dumps({"weight_map": placed})
            (folder / "pytorch_model.bin.index.json").write_text(index)
    else:
        ordered: OrderedDict[str, object] = OrderedDict(tensors)
        ordered._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
        values = {
            "plain": tensors,
            "ordered": ordered,
            "parameters": {name: torch.nn.Parameter(value) for name, value in tensors.items()},
            "nested": {"epoch": 3, "state_dict": ordered},
        }
        torch.save(values[form], folder / "pytorch_model.bin")
    read_whole(folder)


def test_safetensors_come_before_torch_files(folder: Path) -> None:
    torch.save({"other": torch.zeros(1)}, folder / "pytorch_model.bin")
    for state in ("optimizer.bin", "training_args.bin"):
        (folder / state).write_bytes(b"not weights")
    assert read_whole(folder).notes == [
        "pytorch_model.bin: not read, as model.safetensors is there"
    ]


class Command:
    """Pickles to a call of os.system."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def hostile_archive(path: Path, mark: Path) -> None:
    torch.save({**weights(), "x": Command(mark)}, path)


def hostile_pickle(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps({"x": Command(mark)}))


def old_format(path: Path, mark: Path) -> None:
    torch.save({"x": Command(mark)}, path, _use_new_zipfile_serialization=False)


def truncated(path: Path, mark: Path) -> None:
    torch.save(weights(), path)
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize("make", [hostile_archive, hostile_pickle, old_format, truncated])
def test_no_pickle_is_run(
    folder: Path, make: Callable[[Path, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by us nor by torch, which is not asked."""
    (folder / "model.safetensors").unlink()
    make(folder / "pytorch_model.bin", folder / "mark")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    assert "pytorch_model.bin" in refusal(folder)
    assert not (folder / "mark").exists()


def test_the_hubs_cache(folder: Path, tmp_path: Path) -> None:
    """A snapshot is a folder of links to blobs; its parents are not the model."""
    cache = tmp_path / "models--xai-org--grok"
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    (cache / "snapshots" / "aaa").mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(cache / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    read_whole(snapshot)
    for above in (cache, cache / "snapshots", tmp_path):
        assert f"the weights are in {snapshot}: give that folder" in refusal(above)
    (snapshot / "model.safetensors").resolve().unlink()
    assert "model.safetensors: a link to" in refusal(snapshot)
