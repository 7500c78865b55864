"""Faults of token files, manifests, tokenizer, split and index cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rehearsed import (
    LENGTHS,
    VOCABULARY,
    findings,
    one_error,
    sound_data,
    words_of,
    write_manifest,
)
from token_files import write_documents, write_tokens

from ml_train.bring_up import start_platform
from ml_train.config.flags import parse
from ml_train.config.load import load_config
from ml_train.data.index_cache import build_pieces, name_of
from ml_train.data.request import DataRequest
from ml_train.data.settle import settle_orders
from ml_train.rehearsal import folders, tokens
from ml_train.rehearsal.indexes import sizes_of

TOKENIZER = Path(__file__).parents[4] / "examples" / "data" / "grok1_tokenizer"


def of_prefix(folder: Path, make: Callable[[Path], str], *more: str) -> list[str]:
    """The sound job on the files that `make` makes."""
    return words_of(folder, *more, data=make(folder / "other"))


def no_bin(path: Path) -> str:
    prefix = write_tokens(path, lengths=LENGTHS)
    Path(f"{prefix}.bin").unlink()
    return prefix


def no_idx(path: Path) -> str:
    prefix = write_tokens(path, lengths=LENGTHS)
    Path(f"{prefix}.idx").unlink()
    return prefix


def cut_bin(path: Path) -> str:
    prefix = write_tokens(path, lengths=LENGTHS)
    content = Path(f"{prefix}.bin").read_bytes()
    Path(f"{prefix}.bin").write_bytes(content[:-400])
    return prefix


def idx_of_another(path: Path) -> str:
    prefix = write_tokens(path, lengths=LENGTHS)
    longer = write_tokens(path.with_name("longer"), lengths=[*LENGTHS, 7])
    Path(f"{prefix}.idx").write_bytes(Path(f"{longer}.idx").read_bytes())
    return prefix


def no_index_at_all(path: Path) -> str:
    prefix = write_tokens(path, lengths=LENGTHS)
    Path(f"{prefix}.idx").write_bytes(b"no index" * 20)
    return prefix


def empty_files(path: Path) -> str:
    prefix = write_tokens(path, lengths=LENGTHS)
    for suffix in (".bin", ".idx"):
        Path(prefix + suffix).write_bytes(b"")
    return prefix


def id_beyond_vocabulary(path: Path) -> str:
    return write_tokens(path, lengths=LENGTHS, first=VOCABULARY - 100)


def short_data(path: Path) -> str:
    return write_tokens(path, lengths=[10] * 10)


def no_sequence(path: Path) -> str:
    return write_tokens(path, lengths=[1] * 10)


def manifest_of_larger_vocabulary(path: Path) -> str:
    prefix = write_tokens(path, lengths=LENGTHS)
    write_manifest(prefix, vocab_size=VOCABULARY + 1)
    return prefix


def manifest_that_is_none(path: Path) -> str:
    prefix = write_tokens(path, lengths=LENGTHS)
    write_manifest(prefix)
    text = json.loads(Path(f"{prefix}.json").read_text())
    Path(f"{prefix}.json").write_text(json.dumps({**text, "format_version": "one"}))
    return prefix


def changed_after_the_manifest(path: Path) -> str:
    prefix = write_tokens(path, lengths=LENGTHS)
    write_manifest(prefix)
    content = bytearray(Path(f"{prefix}.bin").read_bytes())
    content[40] ^= 1
    Path(f"{prefix}.bin").write_bytes(content)
    return prefix


def size_of_another(path: Path) -> str:
    prefix = write_tokens(path, lengths=LENGTHS)
    write_manifest(prefix)
    manifest = Path(f"{prefix}.json").read_bytes()
    write_tokens(path, lengths=[*LENGTHS, 5])
    # The writer takes the manifest of the files that it replaces away.
    Path(f"{prefix}.json").write_bytes(manifest)
    return prefix


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: str(path), "other.idx does not exist"),
        (lambda path: f"{write_tokens(path, lengths=LENGTHS)}.bin", "does not exist"),
        (no_bin, "other.bin does not exist"),
        (no_idx, "other.idx does not exist"),
        (cut_bin, "other"),
        (idx_of_another, "other"),
        (no_index_at_all, "other.idx"),
        (empty_files, "other"),
        (id_beyond_vocabulary, f"the ids 0 to {VOCABULARY - 1}"),
        (short_data, "a batch would hold sequences twice"),
        (no_sequence, "a batch would hold sequences twice"),
        (manifest_of_larger_vocabulary, "the model has only"),
        (manifest_that_is_none, "other.json"),
        (changed_after_the_manifest, "another checksum than its manifest"),
        (size_of_another, "its manifest says"),
    ],
)
def test_token_files_that_a_start_or_a_later_step_refuses(
    tmp_path: Path, make: Callable[[Path], str], text: str
) -> None:
    said = findings(of_prefix(tmp_path, make), "tokens")
    errors = [f"{item.what} {item.fix}" for item in said if item.severity == "error"]
    assert errors and any(text in line for line in errors), said


def test_an_id_between_the_blocks_that_a_start_reads(tmp_path: Path) -> None:
    """A start reads 64 blocks of 1,024 tokens; this id is met at the step that takes it."""
    ids = np.zeros(200_000, dtype=np.int64)
    ids[2_500] = VOCABULARY
    documents = [part.tolist() for part in np.split(ids, 100)]
    words = of_prefix(tmp_path, lambda path: write_documents(path, documents))
    one_error(findings(words, "tokens"), f"holds the token id {VOCABULARY}")


def test_a_large_file_is_not_read_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MOST_BYTES_READ", 100)
    said = findings(of_prefix(tmp_path, changed_after_the_manifest), "tokens")
    assert said == []


@pytest.mark.parametrize(
    ("split", "text"),
    [("1,0,0", "for the valid split"), ("0,1,0", "for the train split")],
)
def test_a_split_without_documents(tmp_path: Path, split: str, text: str) -> None:
    words = words_of(tmp_path)
    words[words.index("--split") + 1] = split
    one_error(findings(words, "tokens"), "leaves no document", text)


def test_a_split_of_its_own_that_is_not_named(tmp_path: Path) -> None:
    words = words_of(tmp_path, data="")
    words += ["--train-data-path", sound_data(tmp_path)]
    one_error(findings(words, "tokens"), "The run wants valid sequences")


def test_all_faults_of_a_blend_are_told(tmp_path: Path) -> None:
    first, second = no_bin(tmp_path / "first"), id_beyond_vocabulary(tmp_path / "second")
    words = words_of(tmp_path, data="")
    words += ["--data-path", "1", first, "2", second, "1", sound_data(tmp_path)]
    words += ["--split", "1,0,0"]
    texts = [item.what for item in findings(words, "tokens") if item.severity == "error"]
    assert any("first.bin does not exist" in text for text in texts)
    assert any("second: document" in text for text in texts)
    assert any("tokens" in text and "for the valid split" in text for text in texts)
    assert len(texts) == 3


def test_files_of_two_tokenizers(tmp_path: Path) -> None:
    other = write_tokens(tmp_path / "other", lengths=LENGTHS)
    write_manifest(other, eod_id=5)
    words = words_of(tmp_path, data="")
    words += ["--data-path", sound_data(tmp_path), other, "--split", "8,2,0"]
    one_error(findings(words, "tokens"), "end-of-document id 5")


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    words = words_of(tmp_path, "--tokenizer-name-or-path", str(TOKENIZER))
    texts = [item.what for item in findings(words, "tokens") if item.severity == "error"]
    assert any("has 131072 ids, and the model only 4096" in text for text in texts)
    assert any("made with another tokenizer" in text for text in texts)


def test_a_tokenizer_with_far_fewer_ids_than_the_model_is_a_warning(tmp_path: Path) -> None:
    words = words_of(tmp_path, "--tokenizer-name-or-path", str(TOKENIZER), data="")
    words = ["vocab_size=300000" if word == f"vocab_size={VOCABULARY}" else word for word in words]
    said = findings([*words, "--mock-data"], "tokens")
    assert [item.severity for item in said] == ["warning"]
    assert "it may be another model's" in said[0].what


@pytest.mark.parametrize("name", ["absent", "empty", "file.model"])
def test_a_tokenizer_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.model").write_bytes(b"no tokenizer")
    words = words_of(tmp_path, "--tokenizer-name-or-path", str(tmp_path / name))
    one_error(findings(words, "tokens"), "--tokenizer-name-or-path", name)


def test_masked_ends_of_documents_without_their_id(tmp_path: Path) -> None:
    words = of_prefix(tmp_path, lambda path: write_tokens(path, lengths=LENGTHS))
    one_error(findings([*words, "--eod-mask-loss"], "tokens"), "--eod-mask-loss needs")


def test_no_data_is_a_warning_as_it_may_lie_on_the_cluster(tmp_path: Path) -> None:
    said = findings(words_of(tmp_path, data=""), "tokens")
    assert [item.severity for item in said] == ["warning"]


def test_an_index_cache_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = words_of(tmp_path)
    monkeypatch.setattr("ml_train.rehearsal.indexes.free_bytes", lambda _: 100)
    one_error(findings(words, "tokens"), "The sample indexes take", "--data-cache-path")


def test_an_index_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = words_of(tmp_path, "--data-cache-path", str(tmp_path / "file" / "cache"))
    one_error(findings(words, "tokens"), "cannot be written", "is a file")


def test_planned_index_sizes_are_those_of_built_ones(tmp_path: Path) -> None:
    """A blend of two files over several epochs, with validation."""
    start_platform("cpu")
    other = write_tokens(tmp_path / "other", lengths=[33, 5, 70, 8] * 6)
    words = [*words_of(tmp_path, data=""), "--split", "8,2,0", "--train-iters", "40"]
    del words[words.index("--train-iters") : words.index("--train-iters") + 2]
    run = load_config(parse([*words, "--data-path", "2", sound_data(tmp_path), "1", other]))
    request = DataRequest.of(run.config, run.model, 8, None)
    settled = settle_orders(request)
    sizes = [
        item
        for order, total in zip(settled.orders, request.demand.total, strict=True)
        for item in sizes_of(order, total)
    ]
    cache = tmp_path / "cache"
    build_pieces([piece for piece, _ in sizes], cache)
    assert len(sizes) > 4
    for piece, size in sizes:
        built = sum(path.stat().st_size for path in (cache / name_of(piece)).glob("*.npy"))
        assert size == built, piece


def test_the_nearest_folder_of_a_path(tmp_path: Path) -> None:
    assert folders.nearest_folder(tmp_path / "a" / "b") == tmp_path
    assert folders.fault_of_folder(tmp_path / "a" / "b") is None
    assert folders.fault_of_folder(Path("/proc/absent")) is not None
    assert folders.fault_of_file(tmp_path) is not None
