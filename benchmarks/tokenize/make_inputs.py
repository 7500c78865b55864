"""Make the two inputs of the comparison, the same bytes on every machine with the same packages.

`alpaca`: 52,002 documents, 29 MB: rows of the shipped sample, drawn again and again, with one word
in eight replaced, so that no two documents are the same.
`mixed`: English prose, the source text of Python's standard library, and words of 22 languages
from faker's lists, one word in ten altered; 380 MB unless told otherwise.

Usage: python make_inputs.py FOLDER [--mixed-megabytes 380]
"""

from __future__ import annotations

import argparse
import importlib
import random
import sysconfig
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "alpaca_sample.parquet"
ALPACA_DOCUMENTS = 52_002
ALPACA_LONGEST = 800  # characters; brings the mean to that of the real data set, 560 bytes
LANGUAGES = (
    "ar_AA", "bn_BD", "cs_CZ", "da_DK", "de_DE", "el_GR", "en_US", "es_ES", "fa_IR", "fr_FR",
    "he_IL", "hy_AM", "ja_JP", "la", "nl_NL", "pl_PL", "ru_RU", "th_TH", "uk_UA", "vi_VN",
    "zh_CN", "zh_TW",
)  # fmt: skip
WITHOUT_SPACES = ("ja_JP", "th_TH", "zh_CN", "zh_TW")


class Words:
    """Words drawn by how often they occur."""

    def __init__(self, counts: dict[str, float]) -> None:
        self.words = sorted(counts)
        self._weights = list(accumulate(counts[word] for word in self.words))

    def draw(self, rng: random.Random, count: int) -> list[str]:
        """`count` words."""
        return rng.choices(self.words, cum_weights=self._weights, k=count)


def alpaca_documents(rng: random.Random) -> Iterator[str]:
    """Documents like Alpaca's, drawn from the shipped sample."""
    texts = [
        text for text in pq.read_table(SAMPLE)["text"].to_pylist() if len(text) < ALPACA_LONGEST
    ]
    words = Words(Counter(word for text in texts for word in text.split(" ") if word))
    for _ in range(ALPACA_DOCUMENTS):
        yield altered(rng.choice(texts), words, rng, one_in=8)


def altered(text: str, words: Words, rng: random.Random, one_in: int) -> str:
    """`text` with one word in `one_in` replaced; half of those by a word made of two."""
    parts = text.split(" ")
    positions = rng.sample(range(len(parts)), len(parts) // one_in)
    new = words.draw(rng, 2 * len(positions))
    for index, position in enumerate(positions):
        parts[position] = new[2 * index]
        if rng.random() < 0.25:
            parts[position] = new[2 * index][:4] + new[2 * index + 1][-4:]
    return " ".join(parts)


def source_parts(rng: random.Random) -> list[str]:
    """Python's standard library in parts of 200 to 6,000 characters."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(folder.glob("*.py")) + sorted(folder.glob("[a-m]*/*.py"))
    parts = []
    for file in files:
        text, start = file.read_text("utf-8", errors="replace"), 0
        while start < len(text):
            end = start + rng.randrange(200, 6_000)
            parts.append(text[start:end])
            start = end
    return parts


def language_words(name: str) -> Words:
    """faker's words of a language, the first ones most often."""
    provider = importlib.import_module(f"faker.providers.lorem.{name}").Provider
    return Words({word: 1 / (rank + 10) for rank, word in enumerate(provider.word_list)})


def paragraph(name: str, words: Words, rng: random.Random) -> str:
    """A few sentences of made-up text of a language."""
    space = "" if name in WITHOUT_SPACES else " "
    sentences = []
    for _ in range(rng.randrange(2, 25)):
        drawn = words.draw(rng, rng.randrange(4, 24))
        drawn = [word[1:] + drawn[0][:2] if rng.random() < 0.1 else word for word in drawn]
        sentences.append(space.join(drawn).capitalize() + ("." if space else "\u3002"))
    return (space or "").join(sentences)


def mixed_documents(rng: random.Random, num_bytes: float) -> Iterator[str]:
    """English, code and 22 languages, until there are `num_bytes` of UTF-8."""
    sources = source_parts(rng)
    source_words = Words(Counter(word for part in sources for word in part.split(" ") if word))
    english = list(alpaca_documents(rng))
    languages = {name: language_words(name) for name in LANGUAGES}
    while num_bytes > 0:
        kind = rng.random()
        if kind < 0.25:
            text = "\n\n".join(rng.sample(english, rng.randrange(1, 8)))
        elif kind < 0.5:
            text = altered(rng.choice(sources), source_words, rng, one_in=20)
        else:
            name = rng.choice(LANGUAGES)
            count = rng.randrange(1, 5)
            text = "\n".join(paragraph(name, languages[name], rng) for _ in range(count))
        num_bytes -= len(text.encode())
        yield text


def write(path: Path, documents: Iterator[str]) -> None:
    """A parquet file with one column, `text`."""
    values = pa.array(documents, pa.string())
    pq.write_table(pa.table({"text": values}), path, row_group_size=20_000)
    print(f"{path}: {len(values):,} documents, {values.nbytes / 1e6:.1f} MB")


def main() -> None:
    """Write both files unless they are there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mixed-megabytes", type=float, default=380)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    write(args.folder / "alpaca.parquet", alpaca_documents(random.Random(1)))
    if args.mixed_megabytes:
        documents = mixed_documents(random.Random(2), args.mixed_megabytes * 1e6)
        write(args.folder / "mixed.parquet", documents)


if __name__ == "__main__":
    main()
