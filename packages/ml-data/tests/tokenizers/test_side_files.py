"""What a tokenizer's files store besides the vocabulary: applied, refused or announced."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from ml_data.errors import TokenizerError
from ml_data.tokenizers import load_tokenizer

from . import makers

TEXT = "the quick brown fox jumps over the lazy dog " * 5


def change(folder: Path, edit: Any) -> Path:
    """Edit the JSON of a tokenizer.json in place."""
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    edit(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    return folder


@pytest.mark.parametrize("state", ["truncation", "padding", "fixed padding", "dropout"])
def test_a_stored_call_is_not_obeyed_and_named(tmp_path: Path, state: str) -> None:
    plain = load_tokenizer(makers.save(makers.byte_level("<end>", "<pad>"), tmp_path / "a"))
    changed = makers.byte_level("<end>", "<pad>")
    if state == "truncation":
        changed.enable_truncation(8)
    elif state == "padding":
        changed.enable_padding(pad_id=1, pad_token="<pad>")
    elif state == "fixed padding":
        changed.enable_padding(length=900, pad_id=1, pad_token="<pad>")
    folder = makers.save(changed, tmp_path / "b")
    if state == "dropout":
        change(folder, lambda document: document["model"].update(dropout=0.5))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode(TEXT) == plain.encode(TEXT)
    batch = [TEXT, "the cat", ""]
    assert tokenizer.encode_batch(batch)[0].tolist() == plain.encode_batch(batch)[0].tolist()
    assert any(state.split()[-1] in notice for notice in tokenizer.notices), tokenizer.notices


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    folder = makers.save(makers.byte_level("<end>"), tmp_path, config={"eos_token_id": 0})
    for name in ("tokenizer.json", "config.json"):
        path = folder / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_tokenizer(folder).eod_id == 0


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json",
        "generation_config.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1,}', "is not JSON"),
        (b'["a"]', "holds a JSON list"),
        (b"", "is not JSON"),
        (b'{"a": "\xff"}', "is not UTF-8"),
        (b"[" * 100_000, "is not JSON|nested"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    ],
)
def test_a_damaged_side_file_is_one_sentence(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    folder = makers.save(makers.byte_level("<end>"), tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=words) as caught:
        load_tokenizer(folder)
    assert name in str(caught.value)


def test_side_files_of_a_model_are_read_too(tmp_path: Path, grok1: Path) -> None:
    (tmp_path / "tokenizer.model").symlink_to(grok1)
    (tmp_path / "config.json").write_text('{"eos_token_id": 2, "vocab_size": 131000}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.eod_id == 2
    assert any("131000 ids" in notice for notice in tokenizer.notices)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [4, 3]}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.eod_id is None
    for words in ("tokenizer.model says 2", "generation_config.json says 4, 3"):
        assert words in tokenizer.eod_fault
    assert load_tokenizer(tmp_path, eod_id=3).eod_id == 3


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"eos_token": "<end>"}},
        {"tokenizer_config": {"eos_token": {"content": "<end>", "special": True}}},
        {"special_tokens_map": {"eos_token": "<end>"}},
        {"special_tokens_map": {"eos_token": {"content": "<end>"}}},
        {"config": {"eos_token_id": 1}},
        {"config": {"text_config": {"eos_token_id": 1}}},
        {"generation_config": {"eos_token_id": [1]}},
        {"tokenizer_config": {"eos_token": "<end>"}, "generation_config": {"eos_token_id": [0, 1]}},
        {"config": {"eos_token_id": 1}, "generation_config": {"eos_token_id": [1, 0]}},
        {"tokenizer_config": {"eos_token": None}, "config": {"eos_token_id": 1}},
    ],
)
def test_the_end_token_comes_from_any_file(tmp_path: Path, files: dict[str, Any]) -> None:
    tokenizer = makers.byte_level("<other>", "<end>")
    assert load_tokenizer(makers.save(tokenizer, tmp_path, **files)).eod_id == 1


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["has no end-of-document token"]),
        ({"tokenizer_config": {"eos_token": "</s>"}}, ["tokenizer_config.json", "'</s>'", "lacks"]),
        ({"tokenizer_config": {"eos_token": "\ud800"}}, ["tokenizer_config.json", "lacks"]),
        ({"config": {"eos_token_id": 5000}}, ["config.json", "5000", "no such id"]),
        ({"generation_config": {"eos_token_id": [0, 1]}}, ["generation_config.json", "several"]),
        (
            {"tokenizer_config": {"eos_token": "<end>"}, "config": {"eos_token_id": 0}},
            ["disagree", "tokenizer_config.json", "'<end>'", "config.json says 0"],
        ),
        (
            {
                "tokenizer_config": {"eos_token": "<end>"},
                "special_tokens_map": {"eos_token": "<other>"},
            },
            ["tokenizer_config.json", "'<end>'", "special_tokens_map.json", "'<other>'"],
        ),
        (
            {"tokenizer_config": {"eos_token": "</s>"}, "config": {"eos_token_id": 0}},
            ["tokenizer_config.json", "'</s>'", "lacks", "config.json says 0"],
        ),
        (
            {"config": {"eos_token_id": 0}, "generation_config": {"eos_token_id": 1}},
            ["config.json says 0", "generation_config.json says 1"],
        ),
    ],
)
def test_no_single_end_token_says_why(
    tmp_path: Path, files: dict[str, Any], words: list[str]
) -> None:
    folder = makers.save(makers.byte_level("<other>", "<end>"), tmp_path, **files)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eod_id is None
    for word in (*words, "--eod-token", "--eod-id"):
        assert word in tokenizer.eod_fault
    assert load_tokenizer(folder, eod_token="<end>").eod_id == 1
    assert load_tokenizer(folder, eod_id=0).eod_id == 0
    with pytest.raises(TokenizerError, match="no such token"):
        load_tokenizer(folder, eod_token="<en")
    with pytest.raises(TokenizerError, match="no token with this id"):
        load_tokenizer(folder, eod_id=5000)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokenizer_config", {"eos_token": 3}),
        ("tokenizer_config", {"eos_token": ["<end>"]}),
        ("config", {"eos_token_id": "1"}),
        ("config", {"eos_token_id": True}),
        ("generation_config", {"eos_token_id": [1, None]}),
        ("added_tokens", {"<new>": "400"}),
        ("added_tokens", {"<new>": 1 << 31}),
        ("tokenizer_config", {"added_tokens_decoder": ["<new>"]}),
        ("tokenizer_config", {"added_tokens_decoder": {"x": {"content": "<new>"}}}),
        ("tokenizer_config", {"added_tokens_decoder": {"400": "<new>"}}),
        ("tokenizer_config", {"added_tokens_decoder": {"400": {}}}),
    ],
)
def test_values_of_a_wrong_kind_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    folder = makers.save(makers.byte_level("<end>"), tmp_path, **{name: value})
    with pytest.raises(TokenizerError, match=f"{name}.json"):
        load_tokenizer(folder)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("in_config", [False, True])
def test_added_tokens_are_applied_to_a_json(tmp_path: Path, special: bool, in_config: bool) -> None:
    tokenizer = makers.byte_level("<end>")
    size = tokenizer.get_vocab_size()
    files: dict[str, Any] = {"added_tokens": {"<new>": size}}
    if special:
        files["special_tokens_map"] = {"additional_special_tokens": ["<new>"]}
    if in_config:
        entry = {"content": "<new>", "special": special}
        files = {"tokenizer_config": {"added_tokens_decoder": {str(size): entry}}}
    folder = makers.save(tokenizer, tmp_path, **files)
    loaded = load_tokenizer(folder)
    assert loaded.vocab_size == size + 1
    assert (size in loaded.encode("a<new>b")) is not special
    assert size in load_tokenizer(folder, parse_special_tokens=True).encode("a<new>b")
    assert any("<new>" in notice for notice in loaded.notices)
    plain = load_tokenizer(makers.save(tokenizer, tmp_path / "plain"))
    assert loaded.fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens": {"<new>": 10}},
        {"added_tokens": {"<new>": 5000}},
        {"added_tokens": {"<end>": 7}},
        {"added_tokens": {"<a>": 400, "<b>": 400}},
        {
            "added_tokens": {"<new>": 400},
            "tokenizer_config": {"added_tokens_decoder": {"401": {"content": "<new>"}}},
        },
    ],
)
def test_added_tokens_that_contradict_are_refused(tmp_path: Path, files: dict[str, Any]) -> None:
    folder = makers.save(makers.byte_level("<end>"), tmp_path, **files)
    with pytest.raises(TokenizerError, match="added_tokens.json"):
        load_tokenizer(folder)


def test_a_json_whose_added_token_would_move_is_refused(tmp_path: Path) -> None:
    tokenizer = makers.byte_level("<end>")
    tokenizer.add_tokens(["<new>"])
    folder = makers.save(tokenizer, tmp_path)
    change(folder, lambda document: document["added_tokens"][-1].update(id=5000))
    with pytest.raises(TokenizerError, match="'<new>' the id 5000"):
        load_tokenizer(folder)


def test_tokens_added_to_a_model_may_end_documents(tmp_path: Path, grok1: Path) -> None:
    (tmp_path / "tokenizer.model").symlink_to(grok1)
    (tmp_path / "added_tokens.json").write_text('{"<|im_end|>": 131074, "[EOS]": 2}')
    tokenizer = load_tokenizer(tmp_path, eod_token="<|im_end|>")
    assert (tokenizer.eod_id, tokenizer.vocab_size) == (131074, 131075)
    assert tokenizer.decode([*tokenizer.encode("hello"), 131074]) == "hello<|im_end|>"
    assert any("<|im_end|>" in notice for notice in tokenizer.notices)
    with pytest.raises(TokenizerError, match="--parse-special-tokens"):
        load_tokenizer(tmp_path, parse_special_tokens=True)
    (tmp_path / "added_tokens.json").write_text('{"[EOS]": 7}')
    with pytest.raises(TokenizerError, match=r"added_tokens.json.*\[EOS\].*the id 2"):
        load_tokenizer(tmp_path)


def test_special_tokens_named_beside_a_json_count_when_parsed(tmp_path: Path) -> None:
    tokenizer = makers.byte_level("<end>")
    folder = makers.save(tokenizer, tmp_path, special_tokens_map={"eos_token": "<end>"})
    change(folder, lambda document: document.update(added_tokens=[]))
    assert 0 not in load_tokenizer(folder).encode("a<end>b")
    assert load_tokenizer(folder, parse_special_tokens=True).encode("a<end>b").count(0) == 1


def test_holes_in_the_vocabulary(tmp_path: Path) -> None:
    def spread(document: dict[str, Any]) -> None:
        vocabulary = document["model"]["vocab"]
        document["model"]["vocab"] = {
            text: number if number < 200 else number + 70_000 for text, number in vocabulary.items()
        }

    folder = change(makers.save(makers.byte_level("<end>"), tmp_path), spread)
    tokenizer = load_tokenizer(folder)
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.vocab_size == max(reference.get_vocab().values()) + 1 > 70_000
    assert tokenizer.encode(TEXT) == reference.encode(TEXT, add_special_tokens=False).ids
    with pytest.raises(TokenizerError, match="no token with this id"):
        load_tokenizer(folder, eod_id=500)


def test_a_setting_that_the_json_contradicts_is_named(tmp_path: Path) -> None:
    files = {"tokenizer_config": {"do_lower_case": False, "add_prefix_space": True}}
    lower = load_tokenizer(makers.save(makers.word_piece(), tmp_path / "a", **files))
    assert any("do_lower_case" in notice for notice in lower.notices)
    prefix = load_tokenizer(makers.save(makers.byte_level("<end>"), tmp_path / "b", **files))
    assert any("add_prefix_space" in notice for notice in prefix.notices)


def test_add_bos_token_of_the_config_decides_about_the_front(tmp_path: Path, grok1: Path) -> None:
    (tmp_path / "tokenizer.model").symlink_to(grok1)
    config = tmp_path / "tokenizer_config.json"
    for text, front in (
        ('{"add_bos_token": true}', (1,)),
        ('{"tokenizer_class": "LlamaTokenizer"}', (1,)),
        ('{"tokenizer_class": "LlamaTokenizer", "add_bos_token": false}', ()),
        ("{}", ()),
    ):
        config.write_text(text)
        tokenizer = load_tokenizer(tmp_path)
        assert (tokenizer.frame, tokenizer.bos_id) == ((front, ()), 1)
    files = {"tokenizer_config": {"add_bos_token": False}}
    folder = makers.save(makers.llama3(), tmp_path / "json", **files)
    assert load_tokenizer(folder).frame == ((), ())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"IQ== 0\nIg== 1\nIw== 2\n", "tiktoken file.*tokenizer.json.*--engine transformers"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"", "is empty"),
        (b'{"version": "1.0"}', "is JSON"),
        (b"\x00\x01garbage", "not a SentencePiece model"),
    ],
)
def test_a_tokenizer_model_that_is_something_else(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=words):
        load_tokenizer(path)


def test_a_json_beside_a_tiktoken_file_is_taken(tmp_path: Path) -> None:
    folder = makers.save(makers.llama3(), tmp_path)
    (folder / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    assert load_tokenizer(folder).engine_name == "tokenizers"
    with pytest.raises(TokenizerError, match="tiktoken"):
        load_tokenizer(folder, engine="sentencepiece")


def test_a_json_that_is_a_pointer_or_a_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid")
    with pytest.raises(TokenizerError, match="Git LFS pointer"):
        load_tokenizer(path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(TokenizerError, match="a vocabulary, not a tokenizer.json"):
        load_tokenizer(tmp_path / "vocab.json")
