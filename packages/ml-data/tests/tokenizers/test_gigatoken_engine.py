"""gigatoken against SentencePiece: equal ids, and which texts are left to SentencePiece."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ml_data
from ml_data.errors import TokenizerError
from ml_data.tokenizer_files.model_facts import read_facts
from ml_data.tokenizers import base, gigatoken_engine, load_tokenizer
from ml_data.tokenizers.gigatoken_engine import GigatokenTokenizer
from ml_data.tokenizers.gigatoken_json import convert

from ..conftest import files_of, write_lines
from .test_exact_ids import CASES, FRAGMENTS, RELAXED, batches

TRAINED = [
    {},
    {"add_dummy_prefix": False},
    {"split_by_whitespace": False, "split_by_unicode_script": False, "vocab_size": 900},
    {"user_defined_symbols": ["a b", "ab", "\u2581x", "  ", "\u4f60\u597d", "\t", "\t\t", "7"]},
]


def check(tokenizer: GigatokenTokenizer, texts: list[str]) -> None:
    """Fail unless every text gets SentencePiece's ids."""
    ids, lengths = tokenizer.encode_arrow(pa.array(texts, pa.string()))
    assert ids.dtype == lengths.dtype == np.int32
    parts = np.split(ids, np.cumsum(lengths)[:-1])
    for text, got in zip(texts, parts, strict=True):
        assert got.tolist() == tokenizer._processor.encode(text), ascii(text)


def require_gigatoken() -> None:
    pytest.importorskip("gigatoken", reason="the optional engine gigatoken is not installed")


@pytest.fixture(scope="module")
def installed() -> None:
    require_gigatoken()


@pytest.fixture(scope="module")
def tokenizer(grok1: Path) -> GigatokenTokenizer:
    require_gigatoken()
    loaded = load_tokenizer(grok1, engine="gigatoken")
    assert isinstance(loaded, GigatokenTokenizer)
    return loaded


def test_the_reference_cases(tokenizer: GigatokenTokenizer) -> None:
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    assert len(cases) == 452
    ids, lengths = tokenizer.encode_arrow(pa.array([case["text"] for case in cases]))
    for case, got in zip(cases, np.split(ids, np.cumsum(lengths)[:-1]), strict=True):
        assert got.tolist() == case["ids"], case["name"]


def test_every_fragment_beside_every_other(tokenizer: GigatokenTokenizer) -> None:
    check(tokenizer, [left + right for left in FRAGMENTS for right in FRAGMENTS])


def test_pieces_that_overlap_themselves(tokenizer: GigatokenTokenizer) -> None:
    """Where one piece can begin inside another, the order of equal merges could show."""
    pieces = [tokenizer.token_of(number) or "" for number in range(325, 131072, 3)]
    overlapping = [
        piece + piece[size:] * 3
        for piece in pieces
        for size in range(1, len(piece))
        if piece.endswith(piece[:size])
    ]
    assert len(overlapping) > 500
    check(tokenizer, overlapping)


@settings(max_examples=200, deadline=None, suppress_health_check=RELAXED)
@given(batches)
def test_arbitrary_text(tokenizer: GigatokenTokenizer, batch: list[str]) -> None:
    check(tokenizer, batch)


@settings(max_examples=100, deadline=None, suppress_health_check=RELAXED)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab-=_ \n\t01x\u2581\u4f60"), st.integers(1, 24)), max_size=12
    )
)
def test_long_runs(tokenizer: GigatokenTokenizer, runs: list[tuple[str, int]]) -> None:
    check(tokenizer, ["".join(character * size for character, size in runs)])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=20_000, deadline=None, suppress_health_check=RELAXED)
@given(batches)
def test_arbitrary_text_at_depth(tokenizer: GigatokenTokenizer, batch: list[str]) -> None:
    check(tokenizer, batch)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("options", TRAINED)
def test_other_models_of_the_family(train: Callable[..., Path], options: dict[str, object]) -> None:
    other = GigatokenTokenizer(train(**options))
    check(other, [left + right for left in FRAGMENTS[::2] for right in FRAGMENTS])
    check(other, ["ab a b xab \u2581x x x", "7777 77 7", "\t\t\t\t", "\u4f60\u597d\u4f60", ""])


@pytest.mark.parametrize(
    ("text", "is_diverted"),
    [
        ("a <|separator|> b", True),
        ("<|control20|>", True),
        ("[EOS]", True),
        ("see [UNK].", True),
        ("<0x0A>", True),
        ("\n" * 11, True),
        ("\t" * 9, True),
        ("\n" * 10 + "\t" * 8 + "\n", False),
        ("<|sep 0x0A [EO] 1111111111111111", False),
        (" " * 300 + "\u2581\x00", False),
        ("", False),
    ],
)
def test_which_texts_go_to_sentencepiece(
    tokenizer: GigatokenTokenizer, text: str, is_diverted: bool
) -> None:
    before = tokenizer.num_diverted
    check(tokenizer, ["plain", text, "plain too"])
    assert tokenizer.num_diverted - before == is_diverted


@pytest.mark.usefixtures("installed")
def test_special_tokens_in_text(grok1: Path) -> None:
    parsing = GigatokenTokenizer(grok1, parse_special_tokens=True)
    check(parsing, ["a[EOS]b", "[PAD][BOS]", "plain"])
    assert parsing.encode_batch(["[EOS]"])[0].tolist()[-1] == parsing.eod_id


def test_threads_share_it(tokenizer: GigatokenTokenizer) -> None:
    batches = [
        [f"w{seed * number % 97} \u4f60\n" * 9 for number in range(50)] for seed in range(12)
    ]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda batch: check(tokenizer, batch), batches))


@pytest.mark.usefixtures("installed")
def test_a_run_gives_the_bytes_of_the_default_engine(tmp_path: Path, grok1: Path) -> None:
    texts = [f"{left} {right}" for left in FRAGMENTS for right in FRAGMENTS[::5]] + [""]
    lines = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    made = {}
    for engine in ("auto", "gigatoken"):
        ml_data.tokenize(
            lines, grok1, tmp_path / engine / "p", engine=engine, append_eod=True, workers=2,
            batch_bytes=5000,
        )  # fmt: skip
        made[engine] = files_of(tmp_path / engine / "p")
    assert made["auto"].keys() == made["gigatoken"].keys()
    for suffix in ("_text_document.bin", "_text_document.idx"):
        assert made["auto"][suffix] == made["gigatoken"][suffix]
    manifests = [json.loads(made[name]["_text_document.json"]) for name in made]
    assert manifests[1]["tokenizer"].pop("engine") == "gigatoken"
    assert manifests[1]["versions"].pop("gigatoken") == metadata.version("gigatoken")
    assert manifests[0]["tokenizer"].pop("engine") == "sentencepiece-units"
    assert manifests[0] == manifests[1]


def test_a_wrong_id_fails_loudly(tokenizer: GigatokenTokenizer) -> None:
    values = pa.array(["hello world"] * 10)
    ids, lengths = tokenizer.encode_arrow(values)
    assert tokenizer.check_sample(values, ids, lengths) == 1
    with pytest.raises(TokenizerError, match="gigatoken gives other ids than SentencePiece"):
        tokenizer.check_sample(values, ids + 1, lengths)


@pytest.mark.usefixtures("installed")
def test_a_version_that_differs_is_refused_when_it_is_opened(
    grok1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_admitted = GigatokenTokenizer._encode_admitted

    def shifted(self: GigatokenTokenizer, values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        ids, lengths = encode_admitted(self, values)
        return ids + 1, lengths

    monkeypatch.setattr(GigatokenTokenizer, "_encode_admitted", shifted)
    monkeypatch.setattr(base, "compare_sample", lambda *_: 0)
    with pytest.raises(TokenizerError, match="the installed version gives other ids"):
        load_tokenizer(grok1, engine="gigatoken")


@pytest.mark.usefixtures("installed")
def test_models_that_are_not_admitted(train: Callable[..., Path]) -> None:
    with pytest.raises(TokenizerError, match="cannot use the engine gigatoken: .*not a BPE"):
        load_tokenizer(train(model_type="unigram"), engine="gigatoken")


def test_it_is_never_chosen_by_auto(grok1: Path) -> None:
    assert load_tokenizer(grok1).engine_name == "sentencepiece-units"


def test_without_gigatoken_the_way_out_is_named(
    grok1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gigatoken_engine.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TokenizerError, match=r"pip install 'ml-data\[gigatoken\]'"):
        load_tokenizer(grok1, engine="gigatoken")


def test_a_conversion_names_what_merges_cannot_express(grok1: Path) -> None:
    conversion = convert(read_facts(grok1.read_bytes()))
    symbols = ["\n" * size for size in range(1, 11)] + ["\t" * size for size in range(1, 9)]
    assert sorted(conversion.symbols) == sorted([*symbols, *"0123456789"])
    document = json.loads(conversion.json)
    assert len(document["model"]["vocab"]) == 131072
    assert all(
        left + right in document["model"]["vocab"] for left, right in document["model"]["merges"]
    )
