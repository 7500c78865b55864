"""Small tokenizers of the kinds that people have, made with the tokenizers library."""

import json
from pathlib import Path
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "the quick brown fox jumps over the lazy dog, and the cat; it's 1234 or 56.7%!",
    "na\u00efve caf\u00e9 \u4f60\u597d\u4e16\u754c "
    "\u043f\u0440\u0438\u0432\u0435\u0442\n\n\tdef f(x): return x",
] * 40
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(*special: str, size: int = 400, pattern: str = "") -> Tokenizer:
    """Byte-level BPE; `special` get the ids from 0 on."""
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pattern)
    tokenizer.pre_tokenizer = level
    if pattern:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def llama3() -> Tokenizer:
    """Byte-level BPE, special tokens behind the vocabulary, one of them in front of texts."""
    tokenizer = byte_level(pattern=LLAMA3)
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    begin = "<|begin_of_text|>"
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B",
            special_tokens=[(begin, tokenizer.token_to_id(begin))],
        ),
    ])  # fmt: skip
    return tokenizer


def qwen() -> Tokenizer:
    """As Llama 3's, with NFC, single digits, and nothing in front."""
    tokenizer = byte_level(pattern=QWEN)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    return tokenizer


def grok2(**changes: Any) -> dict[str, Any]:
    """The content of a tokenizer.tok.json: specials first, as in the release; `changes` replace."""
    unicode_to_byte = {symbol: number for number, symbol in bytes_to_symbols().items()}
    special = ["<|pad|>", "<|separator|>", "<|eos|>", "<|reserved_3|>", "<|control1|>"]
    # By id: the order of the merges is the order of the ids.
    learned = sorted(byte_level(pattern=QWEN).get_vocab().items(), key=lambda item: item[1])
    return {
        "regular_tokens": [
            {"bytes": [unicode_to_byte[symbol] for symbol in text], "token": len(special) + number}
            for text, number in learned
        ],
        "special_tokens": [
            {"bytes": list(text.encode()), "token": number} for number, text in enumerate(special)
        ],
        "word_split": "V1",
        "vocab_size": len(special) + len(learned),
        **changes,
    }


def bytes_to_symbols() -> dict[int, str]:
    """The symbol that GPT-2's byte-level alphabet has for every byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [number for number in range(256) if number not in printable]
    symbols = {number: chr(number) for number in printable}
    return symbols | {number: chr(256 + rank) for rank, number in enumerate(others)}


def deepseek() -> Tokenizer:
    """Several splits in a row, and special tokens at the start whose text is not ASCII."""
    names = ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>")
    tokenizer = byte_level(*names)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
        pre_tokenizers.Split(Regex(r"[\u4e00-\u9fa5\u3040-\u30ff]+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])  # fmt: skip
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{names[0]}:0 $A:0", pair=f"{names[0]}:0 $A:0 $B:1", special_tokens=[(names[0], 0)]
    )
    return tokenizer


def word_piece() -> Tokenizer:
    """BERT's: lower case, [CLS] in front and [SEP] behind."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def unigram() -> Tokenizer:
    """T5's: Metaspace, </s> behind each text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, **files: Any) -> Path:
    """tokenizer.json in `folder`, and a JSON file for each keyword."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder
