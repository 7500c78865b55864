"""Grok-2's tokenizer.tok.json: the ids are tiktoken's, and those of byte-pair merging by rank.

The peer of the first comparison is tiktoken as SGLang opens it. The second is a few lines of Python
that merge pairs by rank, so that it shares nothing with tiktoken but the pattern.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ml_data
from ml_data.errors import TokenizerError
from ml_data.pipeline.options import TokenizeOptions
from ml_data.pipeline.run import tokenize
from ml_data.tokenizer_files.tok_json import SPLIT_PATTERNS
from ml_data.tokenizers import Tokenizer, load, load_tokenizer

from ..conftest import files_of, write_lines
from . import makers
from .test_exact_ids import RELAXED

tiktoken = pytest.importorskip("tiktoken", reason="the optional engine tiktoken is not installed")
# A dependency of tiktoken.
regex = pytest.importorskip("regex")
tiktoken_engine = pytest.importorskip("ml_data.tokenizers.tiktoken_engine")

MADE = makers.grok2()
PIECES = [
    "the", " quick", "QUICK", "'s", "'LL", "'\u017f", "12", "\u0664", ".", "...\r\n", " !?",
    "\n", "\r", "\t", " ", "   ", "\x0b", "\x1c", "\x85", "\xa0", "\u2028", "\u200b", "\u3000",
    "na\u00efve", "e\u0301", "\u4f60\u597d", "\U0001f600", "\U0010ffff", "\x00",
    "<|eos|>", "<|separator|>", "<|control1|>", "<|control2|>", "<|", "|>",
]  # fmt: skip
TEXTS = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))


def write(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "tokenizer.tok.json"
    path.write_text(json.dumps(MADE | changes), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("grok2"))


@pytest.fixture(scope="module")
def plain(path: Path) -> Tokenizer:
    loaded = load_tokenizer(path)
    assert isinstance(loaded, tiktoken_engine.TiktokenTokenizer)
    return loaded


@pytest.fixture(scope="module")
def parsing(path: Path) -> Tokenizer:
    loaded = load_tokenizer(path, parse_special_tokens=True)
    assert isinstance(loaded, tiktoken_engine.TiktokenTokenizer)
    return loaded


def as_sglang_opens_it(content: dict[str, Any]) -> Any:
    """sgl-project/sglang, TiktokenTokenizer @1e9501814062, in our words."""
    return tiktoken.Encoding(
        "peer",
        pat_str=SPLIT_PATTERNS["V1"],
        mergeable_ranks={bytes(item["bytes"]): item["token"] for item in content["regular_tokens"]},
        special_tokens={
            bytes(item["bytes"]).decode(): item["token"] for item in content["special_tokens"]
        },
        explicit_n_vocab=content["vocab_size"],
    )


PEER = as_sglang_opens_it(MADE)
RANKS = {bytes(item["bytes"]): item["token"] for item in MADE["regular_tokens"]}


def merged(unit: bytes) -> Iterator[int]:
    """Ids of a unit: the pair of the lowest rank is merged first, the leftmost of equals."""
    parts = [bytes((number,)) for number in unit]
    while True:
        ranks = [RANKS.get(a + b) for a, b in zip(parts, parts[1:], strict=False)]
        known = [rank for rank in ranks if rank is not None]
        if not known:
            break
        row = ranks.index(min(known))
        parts[row : row + 2] = [parts[row] + parts[row + 1]]
    yield from (RANKS[part] for part in parts)


@settings(max_examples=200, deadline=None, suppress_health_check=RELAXED)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_ids_are_those_of_tiktoken(plain: Tokenizer, parsing: Tokenizer, texts: list[str]) -> None:
    for tokenizer, allowed in ((plain, set()), (parsing, "all")):
        ids, lengths = tokenizer.encode_arrow(pa.array(texts, pa.string()))
        assert ids.dtype == lengths.dtype == np.int32
        for text, got in zip(texts, np.split(ids, np.cumsum(lengths)[:-1]), strict=True):
            expected = PEER.encode(text, allowed_special=allowed, disallowed_special=())
            assert got.tolist() == tokenizer.encode(text) == expected
            assert tokenizer.decode(expected) == text


@settings(max_examples=150, deadline=None, suppress_health_check=RELAXED)
@given(text=TEXTS)
def test_ids_are_those_of_merging_by_rank(plain: Tokenizer, text: str) -> None:
    # Unicode's letters of the regex module and of tiktoken may be of different years.
    if any(ord(symbol) > 0xFFFF or symbol == "\u017f" for symbol in text):
        return
    units = regex.findall(SPLIT_PATTERNS["V1"], text)
    assert plain.encode(text) == [number for unit in units for number in merged(unit.encode())]


BLANKS = st.text(alphabet="\n\r\t \x85\xa0\u2028\u3000\x1c\u200ba.1<", max_size=30)


@settings(max_examples=200, deadline=None, suppress_health_check=RELAXED)
@given(text=st.one_of(BLANKS, st.lists(st.one_of(BLANKS, st.sampled_from(PIECES))).map("".join)))
@pytest.mark.parametrize("parse", [False, True])
def test_long_white_space_is_cut_where_the_pattern_cuts(
    plain: Tokenizer, parsing: Tokenizer, parse: bool, text: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiktoken_engine, "LONGEST_WHITE_SPACE", 3)
        got = (parsing if parse else plain)._encode_long(text)
    allowed: Any = "all" if parse else set()
    assert got == PEER.encode(text, allowed_special=allowed, disallowed_special=())


def test_a_million_blanks_have_ids(plain: Tokenizer) -> None:
    blanks = " " * 1_000_000
    with pytest.raises(ValueError, match="stack"):
        PEER.encode(blanks)
    ids = plain.encode(f"a{blanks}b\n{blanks}\n{blanks}")
    assert plain.decode(ids) == f"a{blanks}b\n{blanks}\n{blanks}"


def test_special_tokens_and_the_end_of_document(plain: Tokenizer, parsing: Tokenizer) -> None:
    assert plain.eod_id == parsing.eod_id == 2
    assert plain.bos_id is None
    assert plain.frame == ((), ())
    assert plain.token_id("<|separator|>") == 1
    assert plain.token_of(4) == "<|control1|>"
    assert 2 not in plain.encode("a<|eos|>")
    assert parsing.encode("<|eos|>a<|control1|>")[0::2] == [2, 4]
    assert plain.token_of(RANKS[b"\xff"]) == "\\xff"
    assert plain.token_id("the") == RANKS[b"the"]
    assert plain.vocab_size == MADE["vocab_size"]
    assert plain.token_of(plain.vocab_size) is None


@pytest.mark.parametrize(
    ("files", "eod", "fault"),
    [
        ({"config": {"eos_token_id": 2}}, 2, ""),
        (
            {"config": {"eos_token_id": 1}},
            None,
            "tokenizer.tok.json says '<|eos|>' (2), eos_token_id of",
        ),
        ({"generation_config": {"eos_token_id": [1, 2]}}, 2, ""),
        ({"tokenizer_config": {"eos_token": "<|eos|>"}}, 2, ""),
    ],
)
def test_other_files_have_a_say(
    tmp_path: Path, files: dict[str, Any], eod: int | None, fault: str
) -> None:
    write(tmp_path)
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.eod_id == eod
    assert fault in tokenizer.eod_fault
    assert load_tokenizer(tmp_path, eod_token="<|separator|>").eod_id == 1


def test_a_file_without_the_end_token(tmp_path: Path) -> None:
    special = [item for item in MADE["special_tokens"] if item["token"] != 2]
    tokenizer = load_tokenizer(write(tmp_path, special_tokens=special))
    assert tokenizer.eod_id is None
    assert "--eod-token TEXT" in tokenizer.eod_fault


def test_ids_with_holes(tmp_path: Path) -> None:
    far = [*MADE["special_tokens"], {"bytes": list(b"<|far|>"), "token": 1000}]
    tokenizer = load_tokenizer(
        write(tmp_path, special_tokens=far, vocab_size=1024), parse_special_tokens=True
    )
    assert tokenizer.vocab_size == 1001
    assert tokenizer.encode("a<|far|>")[-1] == 1000
    assert tokenizer.token_of(999) is None
    with pytest.raises(TokenizerError, match="no token with the id 999"):
        tokenizer.decode([999])
    assert any("vocab_size of 1024, its ids go up to 1000" in text for text in tokenizer.notices)
    with pytest.raises(TokenizerError, match="--eod-id 999"):
        load_tokenizer(tmp_path, eod_id=999)


def test_tokens_that_the_file_allows_in_text_stay_text(tmp_path: Path) -> None:
    path = write(tmp_path, default_allowed_special=[list(b"<|eos|>")])
    tokenizer = load_tokenizer(path)
    assert 2 not in tokenizer.encode("<|eos|>")
    assert any("they stay text without --parse-special-tokens" in n for n in tokenizer.notices)


def test_special_tokens_that_begin_alike(tmp_path: Path) -> None:
    longer = [*MADE["special_tokens"], {"bytes": list(b"<|eos|>>"), "token": 900}]
    path = write(tmp_path, special_tokens=longer, vocab_size=901)
    assert load_tokenizer(path).eod_id == 2
    with pytest.raises(TokenizerError, match="begins with .*ambiguous"):
        load_tokenizer(path, parse_special_tokens=True)


def test_a_pattern_of_the_file(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path, pat_str=r"\S+|\s+"))
    text = "the the12 .."
    peer = tiktoken.Encoding("p", pat_str=r"\S+|\s+", mergeable_ranks=RANKS, special_tokens={})
    assert tokenizer.encode(text) == peer.encode(text)
    with pytest.raises(TokenizerError, match="does not match all of the text"):
        load_tokenizer(write(tmp_path, pat_str=r"\S+")).encode("a b")
    with pytest.raises(TokenizerError, match="does not take its pat_str"):
        load_tokenizer(write(tmp_path, pat_str="("))
    tokenizer = load_tokenizer(write(tmp_path, pat_str=SPLIT_PATTERNS["V1"]))
    with pytest.raises(TokenizerError, match=r"tiktoken cannot split .* by the pat_str"):
        tokenizer.encode(" " * 1_000_000)


@pytest.mark.parametrize(
    ("added", "message"),
    [({"<|eos|>": 3}, "has the id 2"), ({"<|new|>": 900}, "has no such token")],
)
def test_files_beside_it_that_contradict(
    tmp_path: Path, added: dict[str, int], message: str
) -> None:
    write(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path)


def test_which_file_and_engine(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("tokenizers", "fast", "gigatoken"):
        with pytest.raises(TokenizerError, match="use auto or tiktoken"):
            load_tokenizer(path, engine=engine)
    folder = makers.save(makers.qwen(), tmp_path / "both")
    with pytest.raises(TokenizerError, match="reads a tokenizer.tok.json alone"):
        load_tokenizer(folder / "tokenizer.json", engine="tiktoken")
    write(folder)
    with pytest.raises(TokenizerError, match=r"tiktoken for .*tok.json, tokenizers for"):
        load_tokenizer(folder)
    assert load_tokenizer(folder, engine="tiktoken").engine_name == "tiktoken"
    assert load_tokenizer(folder, engine="tokenizers").engine_name == "tokenizers"
    with pytest.raises(TokenizerError, match="lone surrogate"):
        load_tokenizer(path).encode("\ud800")
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TokenizerError, match=r"pip install 'ml-data\[tiktoken\]'"):
        load_tokenizer(path)


def test_a_run_gives_the_same_bytes_with_any_number_of_workers(
    tmp_path: Path, path: Path, options: Callable[..., TokenizeOptions]
) -> None:
    texts = [f"{text} {number}" for number in range(40) for text in (*makers.CORPUS[:2], *PIECES)]
    lines = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    made = []
    for workers in (1, 3):
        prefix = tmp_path / str(workers) / "p"
        made_options = options(
            lines, tokenizer_name_or_path=str(path.parent), output_prefix=str(prefix),
            append_eod=True, workers=workers, batch_bytes=4096,
        )  # fmt: skip
        (manifest,) = tokenize(made_options)
        made.append({name: files_of(prefix)[f"_text_document{name}"] for name in (".bin", ".idx")})
        assert manifest.tokenizer.eod_id == 2
        assert manifest.versions["tiktoken"]
        data = ml_data.IndexedDataset(f"{prefix}_text_document")
        assert data[5].tolist() == [*PEER.encode(texts[5], disallowed_special=()), 2]
        assert ml_data.verify(f"{prefix}_text_document", path.parent).is_sound
    assert made[0] == made[1]
